#pragma once

#include <string>

#include "nn/fused_mix.h"

namespace liger {

/// Empty, or why the CUDA kernels cannot run these: the build, the device, the type or the sizes. `continues`: from a
/// state. One token of each sequence may then go by a kernel of its own.
std::string cuda_mix_refuses(const MixSettings& settings, const MixInputs& in, bool continues = false);

/// fused_mix() by the CUDA kernels, for inputs that they do not refuse; float32, bfloat16 or float16 inside as the
/// inputs are, states float32. Differentiable once, in q, k, v and states.
MixOutputs cuda_mix(const MixSettings& settings, const MixInputs& in);

/// The same as the next part of sequences of which `past` tokens are in `state`; no gradient. `in.states` is not used.
/// One token of each sequence is one launch.
/// `seen` [S] int64 is `past` on the device.
at::Tensor cuda_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                    const at::Tensor& seen, LayerState& state);

}  // namespace liger
