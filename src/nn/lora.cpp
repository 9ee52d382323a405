#include "liger/nn/lora.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "liger/core/dtype.h"
#include "liger/ops/linear.h"

namespace liger {
namespace {

// W + s B A in A's dtype, [n, in]; `b` holds the same rows as W.
at::Tensor adapted_rows(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale) {
  return at::addmm(weight.to(a.scalar_type()), b, a, /*beta=*/1, /*alpha=*/scale);
}

at::Tensor row_norms(const at::Tensor& rows) { return at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}); }

}  // namespace

Linear::Linear(int64_t in_features, int64_t out_features, bool with_bias, const at::TensorOptions& options) {
  weight = register_parameter("weight", at::empty({out_features, in_features}, options));
  if (with_bias) bias = register_parameter("bias", at::empty({out_features}, options));
}

void Linear::tie(const Linear& to, bool with_bias) {
  parameters_.erase("weight");
  weight = to.weight;
  if (!with_bias || !bias.defined()) return;
  parameters_.erase("bias");
  bias = to.bias;
}

at::Tensor Linear::forward(const at::Tensor& x) {
  if (has_dora()) return forward_dora(x);
  if (!has_lora()) return liger::linear(x, weight, bias);
  if (dropout_ == 0 || !is_training()) return lora_linear(x, weight, bias, lora_a_, lora_b_, scale_);
  const auto type = x.scalar_type();
  const at::Tensor dropped = at::dropout(x, dropout_, /*train=*/true);
  return liger::linear(x, weight, bias) +
         liger::linear(liger::linear(dropped, lora_a_.to(type)), lora_b_.to(type)) * scale_;
}

at::Tensor Linear::forward_dora(const at::Tensor& x) const {
  at::Tensor ratio;
  {
    const at::NoGradGuard constant;  // |W + s B A|: section 4.3 of the paper
    ratio = row_norms(adapted_rows(weight, lora_a_, lora_b_, scale_)).reciprocal_();
  }
  ratio = lora_magnitude() * ratio;
  const auto type = x.scalar_type();
  const bool drops = dropout_ > 0 && is_training();
  const at::Tensor kept = drops ? at::dropout(x, dropout_, true) : x;
  const at::Tensor low = liger::linear(liger::linear(kept, lora_a_.to(type)), lora_b_.to(type));
  at::Tensor y = (liger::linear(kept, weight) + low * scale_) * ratio;  // wide: a ratio near 1 has no place in bfloat16
  if (bias.defined()) y = y + bias;
  if (drops) y = y + liger::linear(x - kept, weight);
  return y.to(type);
}

void Linear::add_lora(const LoraModule& module, const LoraConfig& config) {
  const auto options = weight.options().dtype(wide_type(weight));
  const int64_t in = weight.size(1), out = weight.size(0);
  // Kaiming uniform with a = sqrt 5 is uniform in +-1/sqrt(in).
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  lora_a_ = register_parameter("lora_A", at::empty({module.r, in}, options).uniform_(-bound, bound));
  lora_b_ = register_parameter("lora_B", at::zeros({out, module.r}, options));
  if (config.dora) {
    const at::NoGradGuard no_grad;
    magnitude_ = register_parameter("lora_magnitude_vector", row_norms(weight.to(options.dtype())));
  }
  scale_ = module.scale;
  dropout_ = config.dropout;
}

at::Tensor merged_rows(const at::Tensor& weight, int64_t first, const at::Tensor& a, const at::Tensor& b, double scale,
                       const at::Tensor& magnitude) {
  const int64_t n = weight.size(0);
  const at::Tensor rows = adapted_rows(weight, a, b.narrow(0, first, n), scale);
  if (!magnitude.defined()) return rows;
  return rows * (magnitude.narrow(0, first, n) / row_norms(rows)).unsqueeze(1);
}

}  // namespace liger
