#include "liger/train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "liger/error.h"

namespace liger {

AdamW::AdamW(std::vector<NamedParameter> parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  Group matrices, others;
  matrices.weight_decay = options.weight_decay;
  const at::NoGradGuard no_grad;
  for (const auto& [name, value] : parameters_) {
    LIGER_CHECK(value.scalar_type() == at::kFloat || value.scalar_type() == at::kDouble, "parameter '", name,
                "': expected float32 or float64 to train, got ", value.scalar_type());
    Group& group = value.dim() >= 2 ? matrices : others;
    group.values.push_back(value);
    group.exp_avgs.push_back(at::zeros_like(value));
    group.exp_avg_sqs.push_back(at::zeros_like(value));
  }
  for (Group* group : {&matrices, &others}) {
    if (!group->values.empty()) groups_.push_back(std::move(*group));
  }
}

std::vector<at::Tensor> AdamW::grads() const {
  std::vector<at::Tensor> grads;
  for (const auto& [name, value] : parameters_) {
    LIGER_CHECK(value.grad().defined(), "parameter '", name, "' got no gradient: the loss does not depend on it");
    grads.push_back(value.grad());
  }
  return grads;
}

void AdamW::step(double lr) {
  const at::NoGradGuard no_grad;
  ++steps_;
  for (Group& group : groups_) {
    std::vector<at::Tensor> grads;
    for (const at::Tensor& value : group.values) grads.push_back(value.grad());
    const std::vector<at::Tensor> step(
        group.values.size(),
        at::scalar_tensor(static_cast<double>(steps_), at::device(group.values[0].device()).dtype(at::kFloat)));
    at::_fused_adamw_(group.values, grads, group.exp_avgs, group.exp_avg_sqs, /*max_exp_avg_sqs=*/{}, step, lr,
                      options_.beta1, options_.beta2, group.weight_decay, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

void AdamW::zero_grad() {
  for (const auto& [name, value] : parameters_) value.mutable_grad().reset();
}

double AdamW::grad_norm() const {
  double sum = 0.0;
  for (const at::Tensor& grad : grads()) {
    const double norm = at::linalg_vector_norm(grad).item<double>();
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

void AdamW::scale_grads(double factor) { at::_foreach_mul_(grads(), factor); }

std::string AdamW::first_nonfinite_grad() const {
  for (const auto& [name, value] : parameters_) {
    if (value.grad().defined() && !at::isfinite(value.grad()).all().item<bool>()) return name;
  }
  return {};
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> state;
  std::map<const void*, std::string> names;
  for (const auto& [name, value] : parameters_) names[value.unsafeGetTensorImpl()] = name;
  for (const Group& group : groups_) {
    for (size_t i = 0; i < group.values.size(); ++i) {
      const std::string& name = names.at(group.values[i].unsafeGetTensorImpl());
      state["exp_avg." + name] = group.exp_avgs[i];
      state["exp_avg_sq." + name] = group.exp_avg_sqs[i];
    }
  }
  return state;
}

void AdamW::restore(const std::map<std::string, at::Tensor>& saved, int64_t steps) {
  for (const auto& [name, moment] : state()) {
    const auto found = saved.find(name);
    LIGER_CHECK(found != saved.end(), "tensor '", name, "' is missing");
    LIGER_CHECK(found->second.sizes() == moment.sizes() && found->second.scalar_type() == moment.scalar_type(),
                "tensor '", name, "': expected ", moment.sizes(), " ", moment.scalar_type(), ", got ",
                found->second.sizes(), " ", found->second.scalar_type());
    moment.copy_(found->second);
  }
  steps_ = steps;
}

}  // namespace liger
