#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace liger {

/// A target that is not to be learned; its row costs nothing.
inline constexpr int64_t kIgnoredTarget = -100;

/// sum over rows n with targets[n] != kIgnoredTarget of -log softmax(hidden[n] weight^T)[targets[n]], in nats.
///   hidden [N, D] and weight [V, D] in one dtype, targets [N] int64 -> scalar, float32 (float64 for float64 input).
/// The logits [N, V] never exist, and gradients are formed with the loss, so the backward pass multiplies nothing
/// again. With a frozen weight on the CPU, the vocabulary goes through in pieces that stay in the cache; otherwise rows
/// do, in blocks of 64 MB of logits. Softmax and sums are float32 (float64 for float64 input). Differentiable once, in
/// hidden and in weight: the first backward pass takes the gradients with it. Throws Error if the shapes disagree.
/// With a softcap c, logits z are c tanh(z / c).
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                double softcap = 0);

/// Bytes that it holds at most for that on the CPU, beside what it is given and the gradients.
int64_t linear_cross_entropy_bytes(int64_t rows, int64_t width, int64_t vocab_size, at::ScalarType type,
                                   bool weight_needs_grad);

}  // namespace liger
