#pragma once

// For tests of the CUDA kernels as compiled for the host (kernels_*_test, see CMakeLists.txt).

#include <ATen/core/Tensor.h>

#include "cuda_on_host.h"
#include "liger_kernels.h"
#include "tensor_testing.h"

namespace liger {

// A tensor's values where what lies beside them may not be touched.
class Guarded {
 public:
  explicit Guarded(const at::Tensor& x) : tensor_(x.contiguous()), memory_(std::max<size_t>(tensor_.nbytes(), 1)) {
    std::memcpy(memory_.data(), tensor_.const_data_ptr(), tensor_.nbytes());
  }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.data());
  }
  at::Tensor values() const {
    at::Tensor out = tensor_.clone();
    std::memcpy(out.mutable_data_ptr(), memory_.data(), out.nbytes());
    return out;
  }

 private:
  at::Tensor tensor_;
  cuda_on_host::GuardedMemory memory_;
};

inline at::ScalarType scalar_type(kernels::Type type) {
  return type == kernels::Type::kFloat ? at::kFloat : type == kernels::Type::kHalf ? at::kHalf : at::kBFloat16;
}

}  // namespace liger
