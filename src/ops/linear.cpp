#include "liger/ops/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "core/optional_tensor.h"
#include "liger/error.h"

namespace liger {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Optional = std::optional<at::Tensor>;

// Of a matrix, widened at a time: few enough to be still in the cache when they are multiplied.
constexpr int64_t kBlockElements = int64_t{1} << 18;

// LibTorch's 16-bit products on a processor without such instructions are ten times slower than its float32 ones.
bool multiplies(at::ScalarType type, const at::Tensor& x) {
  if (type != at::kBFloat16 && type != at::kHalf) return true;
#if defined(__x86_64__) || defined(__i386__)
  static const bool bfloat16 = __builtin_cpu_supports("avx512bf16");
  return !x.is_cpu() || (type == at::kBFloat16 && bfloat16);
#else
  return true;
#endif
}

// Calls body(first row, rows as `type`) for all rows of m, block by block if they are not of that type already.
template <typename Body>
void for_blocks(const at::Tensor& m, at::ScalarType type, const Body& body) {
  const int64_t rows = m.size(0);
  const int64_t block =
      m.scalar_type() == type ? rows : std::max<int64_t>(64, kBlockElements / std::max<int64_t>(1, m.size(1)));
  for (int64_t begin = 0; begin < rows; begin += block)
    body(begin, m.narrow(0, begin, std::min(block, rows - begin)).to(type));
}

// The low-rank part of a product, where there is one: h [N, r] = scale x A^T.
struct LowRank {
  at::Tensor h, b;
};
// x W^T + bias + h B^T, one rounding at the end.
at::Tensor forward_product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const LowRank& low,
                           at::ScalarType out_type) {
  const at::ScalarType type = x.scalar_type();
  at::Tensor out;
  for_blocks(w, type, [&](int64_t begin, const at::Tensor& rows) {
    at::Tensor y = at::mm(x, rows.t());
    if (bias.defined()) y += bias.narrow(0, begin, rows.size(0));
    if (low.h.defined()) y.addmm_(low.h, low.b.narrow(0, begin, rows.size(0)).t());
    if (rows.size(0) == w.size(0)) {
      out = y.to(out_type);
    } else {
      if (!out.defined()) out = at::empty({x.size(0), w.size(0)}, x.options().dtype(out_type));
      out.narrow(1, begin, rows.size(0)).copy_(y);
    }
  });
  return out;
}
// y W, in y's type.
at::Tensor backward_product(const at::Tensor& y, const at::Tensor& w) {
  at::Tensor out;
  for_blocks(w, y.scalar_type(), [&](int64_t begin, const at::Tensor& rows) {
    const at::Tensor part = y.narrow(1, begin, rows.size(0));
    if (out.defined())
      out.addmm_(part, rows);
    else
      out = at::mm(part, rows);
  });
  return out;
}

at::Tensor widened(const at::Tensor& x, at::ScalarType type) { return x.defined() ? x.to(type) : x; }
at::Tensor or_undefined(const Optional& x) { return x.value_or(at::Tensor()); }

// Where x's type is multiplied as another; LibTorch's own operator is as good where it is not.
class WidenedLinear : public Function<WidenedLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const Optional& bias) {
    const at::ScalarType type = type_of_products(x);
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), weight});
    context->saved_data["bias"] = bias.has_value();
    return forward_product(x.to(type), weight, widened(or_undefined(bias), type), {}, x.scalar_type());
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "linear: differentiable once in 16 bits");
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor d = grads[0].to(type_of_products(weight));
    variable_list out(3);
    if (context->needs_input_grad(0)) out[0] = backward_product(d, weight).to(weight.scalar_type());
    if (context->needs_input_grad(1)) out[1] = at::mm(d.t(), x.to(d.scalar_type())).to(weight.scalar_type());
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2))
      out[2] = d.sum(0).to(weight.scalar_type());
    return out;
  }
};

class LoraLinear : public Function<LoraLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& a, const at::Tensor& b, double scale, const Optional& bias) {
    context->save_for_backward({x, weight, a, b});
    context->saved_data["scale"] = scale;
    context->saved_data["bias"] = bias.has_value();
    const at::ScalarType type = type_of_products(x);
    const at::Tensor wide = x.to(type);
    const LowRank low = {at::mm(wide, a.to(type).t()).mul_(scale), b.to(type)};
    return forward_product(wide, weight, widened(or_undefined(bias), type), low, x.scalar_type());
  }
  // Gradients are numbered by the tensors among the inputs: what may be missing comes last.
  // With u = scale d B:  dx = d W + u A,  dW = d^T x,  dA = u^T x,  dB = scale d^T (x A^T). The thin matrices lie as
  // rows: LibTorch's products take two to five times as long of columns.
  static variable_list backward(AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "lora_linear: differentiable once");
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const double scale = context->saved_data["scale"].toDouble();
    const at::ScalarType type = type_of_products(x);
    const at::Tensor d = grads[0].to(type), a = saved[2].to(type), b = saved[3].to(type), wide = x.to(type);
    const at::Tensor u = at::mm(d, b.t().contiguous().t()).mul_(scale);
    variable_list out(6);
    if (context->needs_input_grad(0)) out[0] = backward_product(d, weight).addmm_(u, a).to(x.scalar_type());
    if (context->needs_input_grad(1)) out[1] = at::mm(d.t(), wide).to(weight.scalar_type());
    if (context->needs_input_grad(2)) out[2] = at::mm(u.t(), wide).to(saved[2].scalar_type());
    if (context->needs_input_grad(3))
      out[3] = at::mm(at::mm(wide, a.t()).t(), d).t().mul(scale).to(saved[3].scalar_type()).contiguous();
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(4)) out[5] = d.sum(0).to(x.scalar_type());
    return out;
  }
};

void check(const char* name, const at::Tensor& x, const at::Tensor& weight) {
  LIGER_CHECK(
      x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) && x.scalar_type() == weight.scalar_type(),
      name, ": expected x [..., in] and weight [out, in] of one dtype, got ", x.sizes(), " ", x.scalar_type(), ", ",
      weight.sizes(), " ", weight.scalar_type());
}

}  // namespace

at::ScalarType type_of_products(const at::Tensor& x) {
  return multiplies(x.scalar_type(), x) ? x.scalar_type() : at::kFloat;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  check("linear", x, weight);
  if (multiplies(x.scalar_type(), x)) return at::linear(x, weight, if_defined(bias));
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return WidenedLinear::apply(x.reshape({-1, x.size(-1)}), weight, if_defined(bias)).view(shape);
}

at::Tensor lora_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& a,
                       const at::Tensor& b, double scale) {
  check("lora_linear", x, weight);
  LIGER_CHECK(x.dim() == 2 && a.dim() == 2 && b.dim() == 2 && a.size(1) == x.size(1) && b.size(0) == weight.size(0) &&
                  a.size(0) == b.size(1),
              "lora_linear: expected x [N, in], a [r, ", weight.size(1), "] and b [", weight.size(0), ", r], got ",
              x.sizes(), ", ", a.sizes(), " and ", b.sizes());
  return LoraLinear::apply(x, weight, a, b, scale, if_defined(bias));
}

at::Tensor product(const at::Tensor& x, const at::Tensor& m, bool transposed, at::ScalarType type) {
  const at::Tensor wide = x.to(type_of_products(m));
  return transposed ? forward_product(wide, m, {}, {}, type) : backward_product(wide, m).to(type);
}

}  // namespace liger
