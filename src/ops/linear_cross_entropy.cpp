#include "liger/ops/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/ops/linear.h"
#include "ops/rows.h"

namespace liger {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits held at a time: large enough that re-reading the weight is paid off, small enough to stay in cache.
constexpr int64_t kBlockElements = int64_t{1} << 23;
constexpr int64_t kMinBlockRows = 128;

struct Result {
  at::Tensor loss;
  at::Tensor hidden_grad, weight_grad;  // of the loss; undefined unless asked for
};

// The sum of the rows' losses, float64; with `gradient`, logits become softmax - one-hot, their gradient.
at::Tensor cross_entropy(at::Tensor& logits, const at::Tensor& targets, bool gradient) {
  if (!takes_rows(logits)) {
    const at::Tensor target = targets.unsqueeze(1);
    logits = at::_log_softmax(logits, 1, /*half_to_float=*/false);
    const at::Tensor loss = -logits.gather(1, target).sum(at::kDouble);
    if (gradient) logits.exp_().scatter_add_(1, target, at::scalar_tensor(-1.0, logits.options()).expand_as(target));
    return loss;
  }
  logits = logits.contiguous();
  const at::Tensor losses = at::empty({logits.size(0)}, at::kDouble);
  const int64_t V = logits.size(1);
  const int64_t* target = targets.const_data_ptr<int64_t>();
  for_row_blocks(logits.size(0), [&](int64_t, int64_t first, int64_t count) {
    for (int64_t row = first; row < first + count; ++row) {
      LIGER_CHECK(target[row] >= 0 && target[row] < V, "linear_cross_entropy: target ", target[row],
                  " is not one of the ", V, " rows of the weight");
      losses.mutable_data_ptr<double>()[row] = cpu_kernels().rows.cross_entropy(
          element_of(logits.scalar_type()), static_cast<char*>(logits.data_ptr()) + row * V * logits.element_size(), V,
          target[row], gradient);
    }
  });
  return losses.sum();
}

Result compute(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, bool hidden_needs_grad,
               bool weight_needs_grad) {
  const at::ScalarType type = wide_type(hidden);
  const at::Tensor rows = at::nonzero(targets != kIgnoredTarget).squeeze(1);
  const int64_t count = rows.size(0);
  const int64_t block = logits_rows(weight.size(0));
  Result result;
  at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kDouble));
  if (hidden_needs_grad) result.hidden_grad = at::zeros_like(hidden);
  // Summed over the blocks, so not in a 16-bit type.
  if (weight_needs_grad) result.weight_grad = at::zeros(weight.sizes(), weight.options().dtype(type));

  for (int64_t begin = 0; begin < count; begin += block) {
    const at::Tensor index = rows.narrow(0, begin, std::min(block, count - begin));
    const at::Tensor x = hidden.index_select(0, index);
    at::Tensor p = product(x, weight, /*transposed=*/true, type);
    const bool gradient = hidden_needs_grad || weight_needs_grad;
    loss += cross_entropy(p, targets.index_select(0, index), gradient);
    if (!gradient) continue;
    if (hidden_needs_grad)
      result.hidden_grad.index_copy_(0, index, product(p, weight, /*transposed=*/false, hidden.scalar_type()));
    if (weight_needs_grad) result.weight_grad.addmm_(p.t(), x.to(type));
  }
  result.loss = loss.to(type);
  if (weight_needs_grad) result.weight_grad = result.weight_grad.to(weight.scalar_type());
  return result;
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& weight,
                            const at::Tensor& targets, bool hidden_needs_grad, bool weight_needs_grad) {
    Result result = compute(hidden, weight, targets, hidden_needs_grad, weight_needs_grad);
    context->saved_data["hidden"] = std::move(result.hidden_grad);
    context->saved_data["weight"] = std::move(result.weight_grad);
    return result.loss;
  }

  static variable_list backward(AutogradContext* context, variable_list upstream) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "linear_cross_entropy: its gradient cannot be differentiated again");
    LIGER_CHECK(!context->saved_data.empty(), "linear_cross_entropy: its gradients were handed out already");
    // They are as large as the weight: handed over, not copied.
    const auto chained = [&](const char* name) {
      at::Tensor grad = context->saved_data[name].toTensor();
      return grad.defined() ? grad.mul_(upstream[0]) : grad;
    };
    const variable_list out = {chained("hidden"), chained("weight"), {}, {}, {}};
    context->saved_data.clear();
    return out;
  }
};

}  // namespace

int64_t logits_rows(int64_t vocab_size) { return std::max(kMinBlockRows, kBlockElements / vocab_size); }

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  LIGER_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) && targets.dim() == 1 &&
                  targets.size(0) == hidden.size(0) && hidden.scalar_type() == weight.scalar_type(),
              "linear_cross_entropy: expected hidden [N, D], weight [V, D] of one dtype and targets [N], got ",
              hidden.sizes(), " ", hidden.scalar_type(), ", ", weight.sizes(), " ", weight.scalar_type(), ", ",
              targets.sizes());
  const bool grad = at::GradMode::is_enabled();
  const bool hidden_needs_grad = grad && hidden.requires_grad(), weight_needs_grad = grad && weight.requires_grad();
  if (!hidden_needs_grad && !weight_needs_grad) return compute(hidden, weight, targets, false, false).loss;
  return LinearCrossEntropy::apply(hidden, weight, targets, hidden_needs_grad, weight_needs_grad);
}

}  // namespace liger
