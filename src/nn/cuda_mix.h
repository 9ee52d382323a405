#pragma once

#include <string>

#include "nn/fused_mix.h"

namespace liger {

/// Empty, or why the CUDA kernels cannot run these: the build, the device, the type or the sizes.
std::string cuda_mix_refuses(const MixSettings& settings, const MixInputs& in);

/// Empty, or why they cannot continue these sequences, of which `past` tokens are in a state: layers with choices that
/// the paper does not have begin with any number of tokens, and go on one by one.
std::string cuda_mix_continue_refuses(const MixSettings& settings, const MixInputs& in,
                                      const std::vector<int64_t>& past);

/// fused_mix() by the CUDA kernels, for inputs that they do not refuse; float32, bfloat16 or float16 inside as the
/// inputs are, states float32. Differentiable once, in q, k, v and states.
MixOutputs cuda_mix(const MixSettings& settings, const MixInputs& in);

/// The window alone: o [N, H, D] as q, and the logarithm of each query's sum of exponentials, [N, H] float32.
/// Differentiable once, in q, k and v.
struct WindowOutputs {
  at::Tensor o, log_sum;
};
WindowOutputs cuda_window(const MixSettings& settings, const MixInputs& in);

/// The same as the next part of sequences of which `past` tokens are in `state`; no gradient. `in.states` is not used.
/// One token of each sequence is one launch.
/// `seen` [S] int64 is `past` on the device.
at::Tensor cuda_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                    const at::Tensor& seen, LayerState& state);

}  // namespace liger
