#include "ops/head_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/nonzero.h>
#include <torch/csrc/autograd/custom_function.h>

#include <span>

#include "liger/error.h"
#include "liger/ops/linear_cross_entropy.h"

namespace liger {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlockElements = int64_t{1} << 24;
constexpr int64_t kMinBlockRows = 128;

struct WithGradients : torch::autograd::Function<WithGradients> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor&, const at::Tensor&, const HeadLoss& loss) {
    context->saved_data["hidden"] = loss.hidden_grad;
    context->saved_data["weight"] = loss.weight_grad;
    return loss.loss.clone();
  }

  static variable_list backward(AutogradContext* context, variable_list upstream) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "loss of the head: its gradient cannot be differentiated again");
    LIGER_CHECK(!context->saved_data.empty(), "loss of the head: its gradients were handed out already");
    // They are as large as the weight: handed over, not copied.
    const auto chained = [&](const char* name) {
      at::Tensor grad = context->saved_data[name].toTensor();
      return grad.defined() ? grad.mul_(upstream[0]) : grad;
    };
    const variable_list out = {chained("hidden"), chained("weight"), {}};
    context->saved_data.clear();
    return out;
  }
};

void check_targets(const at::Tensor& targets, int64_t vocab_size) {
  const at::Tensor dense = targets.contiguous();
  for (const int64_t target : std::span(dense.const_data_ptr<int64_t>(), dense.numel())) {
    LIGER_CHECK(target == kIgnoredTarget || (target >= 0 && target < vocab_size), "linear_cross_entropy: target ",
                target, " is not one of the ", vocab_size, " rows of the weight");
  }
}

}  // namespace

at::Tensor with_gradients(const at::Tensor& hidden, const at::Tensor& weight, const HeadLoss& loss) {
  return WithGradients::apply(hidden, weight, loss);
}

at::Tensor learned_rows(const at::Tensor& targets, int64_t vocab_size) {
  if (targets.is_cpu()) check_targets(targets, vocab_size);
  return at::nonzero(targets != kIgnoredTarget).squeeze(1);
}

int64_t block_rows(int64_t vocab_size) { return std::max(kMinBlockRows, kBlockElements / vocab_size); }

}  // namespace liger
