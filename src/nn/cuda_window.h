#pragma once

#include "nn/fused_mix.h"

namespace liger {

/// What a window has seen before a call: `seen` [S] int64 on the device, and the state with its rings; null: nothing.
struct WindowPast {
  at::Tensor seen;
  const LayerState* state = nullptr;
};

/// The window of a layer alone, by the CUDA kernels: o [N, H, D] as q, and the logarithm of each query's sum of
/// exponentials, [N, H] float32. Without a past differentiable once, in q, k and v.
struct WindowOutputs {
  at::Tensor o, log_sum;
};
WindowOutputs cuda_window(const MixSettings& settings, const MixInputs& in, const WindowPast& past = {});

}  // namespace liger
