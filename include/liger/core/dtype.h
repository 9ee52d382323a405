#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "liger/io/safetensors.h"

namespace liger {

/// "f32", "float32", "bf16", "f16", "f64", ... -> ScalarType; throws Error(kUsage) listing what is known.
at::ScalarType scalar_type_from_string(const std::string& name);

/// The type gates, states, norms and softmaxes are computed in: float64 for float64, float32 for everything else.
inline at::ScalarType wide_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// File type <-> tensor type. Throws Error(kBadInput) for a type the other side does not have.
at::ScalarType to_scalar_type(Dtype dtype);
Dtype to_file_dtype(at::ScalarType type);

}  // namespace liger
