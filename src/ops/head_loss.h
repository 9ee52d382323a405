#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "liger/core/dtype.h"
#include "liger/ops/linear.h"

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

/// Logits under a softcap c, c tanh(z / c), and what a gradient by them becomes by z: 1 - (capped / c)^2 of it.
inline at::Tensor capped(const at::Tensor& z, double c) { return c == 0 ? z : at::tanh(z / c).mul_(c); }
inline void uncap_gradient(at::Tensor& gradient, const at::Tensor& capped, double c) {
  if (c != 0) gradient.mul_(1 - (capped / c).square_());
}

/// A loss that needs whole rows of logits, which exist in blocks: losses(indices of rows, logits, wants a gradient)
/// returns their sum and, where it is wanted, leaves its gradient in the logits, which have the softcap if it is not 0.
template <typename Losses>
HeadLoss loss_by_rows(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& rows,
                      bool hidden_needs_grad, bool weight_needs_grad, double softcap, const Losses& losses) {
  const at::ScalarType type = wide_type(hidden);
  HeadLoss out;
  out.loss = at::zeros({}, hidden.options().dtype(at::kDouble));
  if (hidden_needs_grad) out.hidden_grad = at::zeros_like(hidden);
  // Summed over the blocks, so not in a 16-bit type.
  if (weight_needs_grad) out.weight_grad = at::zeros(weight.sizes(), weight.options().dtype(type));
  for_blocks(rows, block_rows(weight.size(0)), [&](const at::Tensor& index) {
    const at::Tensor x = hidden.index_select(0, index);
    const bool gradient = hidden_needs_grad || weight_needs_grad;
    at::Tensor logits = capped(product(x, weight, /*transposed=*/true, type), softcap);
    const at::Tensor before = softcap != 0 && gradient ? logits.clone() : at::Tensor();
    out.loss += losses(index, logits, gradient);
    if (before.defined()) uncap_gradient(logits, before, softcap);
    if (hidden_needs_grad)
      out.hidden_grad.index_copy_(0, index, product(logits, weight, /*transposed=*/false, hidden.scalar_type()));
    if (weight_needs_grad) out.weight_grad.addmm_(logits.t(), x.to(type));
  });
  if (weight_needs_grad) out.weight_grad = out.weight_grad.to(weight.scalar_type());
  return out;
}

}  // namespace liger
