#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/square.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/ops/ops.h"
#include "ops/rows.h"

namespace liger {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

char* row(const at::Tensor& x, int64_t index) {
  return static_cast<char*>(x.data_ptr()) + index * x.size(-1) * static_cast<int64_t>(x.element_size());
}

class RmsNormRows : public Function<RmsNormRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps,
                            bool adds_one) {
    const at::Tensor rows = x.contiguous(), y = at::empty_like(rows);
    const NormView norm = view(rows, weight, eps, adds_one);
    for_row_blocks(rows.numel() / rows.size(-1), [&](int64_t, int64_t first, int64_t count) {
      cpu_kernels().rows.norm(norm, row(rows, first), count, row(y, first));
    });
    context->save_for_backward({rows, weight});
    context->saved_data["eps"] = eps;
    context->saved_data["adds_one"] = adds_one;
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "rms_norm: differentiable once");
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor d = grads[0].contiguous(), dx = at::empty_like(x);
    const NormView norm =
        view(x, weight, context->saved_data["eps"].toDouble(), context->saved_data["adds_one"].toBool());
    const int64_t rows = x.numel() / x.size(-1);
    at::Tensor by_block;
    if (context->needs_input_grad(1))
      by_block = at::zeros({row_blocks(rows), x.size(-1)}, x.options().dtype(wide_type(x)));
    for_row_blocks(rows, [&](int64_t block, int64_t first, int64_t count) {
      cpu_kernels().rows.norm_backward(norm, row(x, first), row(d, first), count, row(dx, first),
                                       by_block.defined() ? row(by_block, block) : nullptr);
    });
    return {dx, by_block.defined() ? by_block.sum(0).to(weight.scalar_type()) : by_block, {}, {}};
  }

 private:
  static NormView view(const at::Tensor& x, const at::Tensor& weight, double eps, bool adds_one) {
    return {element_of(x.scalar_type()), x.size(-1), weight.const_data_ptr(), eps, adds_one};
  }
};

class GateRows : public Function<GateRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gates, const at::Tensor& ups,
                            GateActivation activation) {
    const at::Tensor g = gates.contiguous(), u = ups.contiguous(), out = at::empty_like(g);
    for_row_blocks(g.size(0), [&](int64_t, int64_t first, int64_t count) {
      cpu_kernels().rows.gate(element_of(g.scalar_type()), activation, row(g, first), row(u, first), count * g.size(1),
                              row(out, first));
    });
    context->save_for_backward({g, u});
    context->saved_data["activation"] = static_cast<int64_t>(activation);
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "gated_activation: differentiable once");
    const auto saved = context->get_saved_variables();
    const at::Tensor &g = saved[0], &u = saved[1];
    const at::Tensor d = grads[0].contiguous(), d_g = at::empty_like(g), d_u = at::empty_like(u);
    const auto activation = static_cast<GateActivation>(context->saved_data["activation"].toInt());
    for_row_blocks(g.size(0), [&](int64_t, int64_t first, int64_t count) {
      cpu_kernels().rows.gate_backward(element_of(g.scalar_type()), activation, row(g, first), row(u, first),
                                       row(d, first), count * g.size(1), row(d_g, first), row(d_u, first));
    });
    return {d_g, d_u, {}};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, bool adds_one) {
  LIGER_CHECK(weight.dim() == 1 && weight.size(0) == x.size(-1), "rms_norm: expected x [..., D] and weight [D], got ",
              x.sizes(), " and ", weight.sizes());
  if (takes_rows(x) && weight.scalar_type() == x.scalar_type() && weight.is_contiguous())
    return RmsNormRows::apply(x, weight, eps, adds_one);
  const at::Tensor wide = x.to(wide_type(x));
  const at::Tensor normal = wide * at::rsqrt(wide.square().mean({-1}, /*keepdim=*/true) + eps);
  if (adds_one) return (normal * (weight.to(normal.scalar_type()) + 1.0)).to(x.scalar_type());
  return normal.to(x.scalar_type()) * weight;
}

at::Tensor gated_activation(const std::string& name, const at::Tensor& gates, const at::Tensor& ups) {
  LIGER_CHECK(gates.dim() == 2 && gates.sizes() == ups.sizes() && gates.scalar_type() == ups.scalar_type(),
              "gated_activation: expected gates and ups [N, I] of one dtype, got ", gates.sizes(), " ",
              gates.scalar_type(), " and ", ups.sizes(), " ", ups.scalar_type());
  const GateActivation activation = activation_named(name);
  if (takes_rows(gates)) return GateRows::apply(gates, ups, activation);
  return liger::activation(name, gates) * ups;
}

at::Tensor activation(const std::string& name, const at::Tensor& x) {
  const GateActivation named = activation_named(name);
  if (named == GateActivation::kSilu) return at::silu(x);
  return at::gelu(x, named == GateActivation::kGelu ? "none" : "tanh");
}

}  // namespace liger
