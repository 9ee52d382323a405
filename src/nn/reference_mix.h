#pragma once

#include "nn/fused_mix.h"

namespace liger {

/// The definition of fused_mix() in torch operators: any device, differentiable as often as asked, token by token where
/// `method` has no faster form of the structure.
MixOutputs reference_mix(const MixSettings& settings, const MixInputs& in, ScanMethod method = ScanMethod::kReference);
at::Tensor reference_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                         LayerState& state, ScanMethod method = ScanMethod::kReference);

// Its parts, of [1, T, heads, D] in a wide type.
/// x + W_h x of each head; `map` may be undefined.
at::Tensor with_map(const at::Tensor& x, const at::Tensor& map);
/// Gives what a recurrence reads the scales and gates of `scalars`, which may be undefined.
void apply_scalars(const at::Tensor& scalars, RecurrenceInputs& in);
/// What both branches give, from the window's output [1, T, H, D] and sums of exponentials log_sum [1, T, H].
at::Tensor combine(const MixSettings& settings, const at::Tensor& scalars, const at::Tensor& window,
                   const at::Tensor& log_sum, const RecurrenceOutputs& linear);

}  // namespace liger
