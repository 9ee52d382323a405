#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace liger {

/// A target that is not to be learned; its row costs nothing.
inline constexpr int64_t kIgnoredTarget = -100;

/// sum over rows n with targets[n] != kIgnoredTarget of -log softmax(hidden[n] weight^T)[targets[n]], in nats.
///   hidden [N, D] and weight [V, D] in one dtype, targets [N] int64 -> scalar, float32 (float64 for float64 input).
/// The logits [N, V] never exist: rows go through in blocks, and each block's gradients are formed with it, so the
/// backward pass multiplies nothing again. Softmax and sums are float32 (float64 for float64 input).
/// Differentiable once, in hidden and in weight: the first backward pass takes the gradients with it. Throws Error if the
/// shapes disagree.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets);

/// Rows of logits that it holds at a time.
int64_t logits_rows(int64_t vocab_size);

}  // namespace liger
