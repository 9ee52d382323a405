#pragma once

#include <optional>
#include <string>

#include "nn/fused_mix.h"

namespace liger {

/// Empty, or why layers that chose what the paper's do not have cannot continue these sequences on CUDA. `past`: tokens
/// of each that a state knows.
std::string cuda_choices_refuse(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past);

/// One token of each sequence through such a layer by one kernel: o [S, H, D], and `state`, whose states and rings are
/// there, goes on. Nothing where the kernel refuses the sizes. `seen` [S] int64 on the device: tokens before this one.
std::optional<at::Tensor> cuda_choices_step(const MixSettings& settings, const MixInputs& in, const at::Tensor& seen,
                                            LayerState& state);

}  // namespace liger
