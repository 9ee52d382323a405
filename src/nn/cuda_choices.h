#pragma once

#include <optional>
#include <string>

#include "nn/fused_mix.h"

namespace liger {

/// One token of each sequence through a layer that chose what the paper's do not have, by one kernel: o [S, H, D], and
/// `state`, whose states and rings are there, goes on. Nothing where cuda_choices_step_refuses(). `seen` [S] int64 on
/// the device: tokens before this one.
std::optional<at::Tensor> cuda_choices_step(const MixSettings& settings, const MixInputs& in, const at::Tensor& seen,
                                            LayerState& state);
/// Empty, or why the kernel cannot run these.
std::string cuda_choices_step_refuses(const MixSettings& settings, const MixInputs& in);

}  // namespace liger
