#pragma once

#include <ATen/core/Tensor.h>

namespace liger {

/// y = x W^T + bias: x [..., in], weight [out, in] of x's dtype, bias [out] or undefined -> [..., out].
/// Where the processor has no products of a 16-bit dtype, blocks of W are widened and multiplied in float32, which has
/// one rounding, that of y. Differentiable once in x, weight and bias.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// y = x W^T + bias + scale (x A^T) B^T (LoRA, arXiv 2106.09685, section 4.1), without ever forming W + scale B A:
/// a [r, in], b [out, r], float32 (float64 with float64 x). Differentiable once, in all of them.
/// What it keeps for that is x; x A^T is computed again.
at::Tensor lora_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& a,
                       const at::Tensor& b, double scale);

/// What tensors like x are multiplied as: their dtype, or float32 (see linear).
at::ScalarType type_of_products(const at::Tensor& x);

/// x M, or x M^T if `transposed`, as `type`; M may be of a 16-bit dtype that is multiplied as above. No gradient.
at::Tensor product(const at::Tensor& x, const at::Tensor& m, bool transposed, at::ScalarType type);

}  // namespace liger
