#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/square.h>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/ops/ops.h"

namespace liger {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, bool adds_one) {
  const at::Tensor wide = x.to(wide_type(x));
  const at::Tensor normal = wide * at::rsqrt(wide.square().mean({-1}, /*keepdim=*/true) + eps);
  if (adds_one) return (normal * (weight.to(normal.scalar_type()) + 1.0)).to(x.scalar_type());
  return normal.to(x.scalar_type()) * weight;
}

at::Tensor activation(const std::string& name, const at::Tensor& x) {
  if (name == "silu") return at::silu(x);
  if (name == "gelu") return at::gelu(x, "none");
  LIGER_CHECK(name == "gelu_pytorch_tanh", "activation '", name, "' is not supported");
  return at::gelu(x, "tanh");
}

}  // namespace liger
