#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace liger {

/// Autograd takes no undefined tensors.
inline std::optional<at::Tensor> if_defined(const at::Tensor& x) {
  return x.defined() ? std::optional(x) : std::nullopt;
}

}  // namespace liger
