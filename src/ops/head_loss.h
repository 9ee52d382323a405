#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace liger {

/// A sum of losses of rows of logits hidden weight^T, with its gradients formed at once.
struct HeadLoss {
  at::Tensor loss;                      ///< scalar
  at::Tensor hidden_grad, weight_grad;  ///< undefined unless asked for
};

/// `loss` as a differentiable scalar: the first backward pass takes the gradients with it, a second one throws Error.
at::Tensor with_gradients(const at::Tensor& hidden, const at::Tensor& weight, const HeadLoss& loss);

/// The loss that compute(hidden needs a gradient, weight needs one) returns.
template <typename Compute>
at::Tensor head_loss(const at::Tensor& hidden, const at::Tensor& weight, const Compute& compute) {
  const bool grad = at::GradMode::is_enabled();
  const bool hidden_needs_grad = grad && hidden.requires_grad(), weight_needs_grad = grad && weight.requires_grad();
  HeadLoss out;
  {
    const at::NoGradGuard no_grad;
    out = compute(hidden_needs_grad, weight_needs_grad);
  }
  return hidden_needs_grad || weight_needs_grad ? with_gradients(hidden, weight, out) : out.loss;
}

/// Indices of the targets that are not kIgnoredTarget. Throws Error for one, on the CPU, that is not a row of a weight
/// with `vocab_size` of them.
at::Tensor learned_rows(const at::Tensor& targets, int64_t vocab_size);

/// Whole rows of logits held at a time: many, as the weight is read anew for each block.
int64_t block_rows(int64_t vocab_size);

/// Calls body(indices of rows) for blocks of at most `most` of them, about as large as each other.
template <typename Body>
void for_blocks(const at::Tensor& rows, int64_t most, const Body& body) {
  const int64_t count = rows.size(0), blocks = (count + most - 1) / most;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = count * i / blocks;
    body(rows.narrow(0, begin, count * (i + 1) / blocks - begin));
  }
}

}  // namespace liger
