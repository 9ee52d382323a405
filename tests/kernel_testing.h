#pragma once

// For tests of the CUDA kernels (kernels_*_test, see CMakeLists.txt): compiled for the host, or by nvcc for a GPU, with
// LIGER_TEST_ON_GPU. Whatever a kernel reads or writes lies in Guarded memory: a GPU knows no other.

#include <ATen/core/Tensor.h>

#include "liger_kernels.h"
#include "tensor_testing.h"

#ifdef LIGER_TEST_ON_GPU
#include "gpu_memory.h"
#else
#include "cuda_on_host.h"
#endif

namespace liger {

#ifdef LIGER_TEST_ON_GPU
using KernelMemory = gpu::Memory;
#else
class KernelMemory {
 public:
  explicit KernelMemory(size_t bytes) : memory_(bytes) {}
  void* data() const { return memory_.data(); }
  void write(const void* from, size_t bytes) { std::memcpy(memory_.data(), from, bytes); }
  void read(void* to, size_t bytes) const { std::memcpy(to, memory_.data(), bytes); }

 private:
  cuda_on_host::GuardedMemory memory_;
};
#endif

// A tensor's values where what lies beside them may not be touched: on the host its end is that of the memory, on a GPU
// compute-sanitizer watches it.
class Guarded {
 public:
  explicit Guarded(const at::Tensor& x) : tensor_(x.contiguous()), memory_(std::max<size_t>(tensor_.nbytes(), 1)) {
    memory_.write(tensor_.const_data_ptr(), tensor_.nbytes());
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_.data());
  }
  at::Tensor values() const {
    at::Tensor out = tensor_.clone();
    memory_.read(out.mutable_data_ptr(), out.nbytes());
    return out;
  }

 private:
  at::Tensor tensor_;
  KernelMemory memory_;
};

/// Where tensors lie that the kernels reach through LibTorch.
#ifdef LIGER_TEST_ON_GPU
constexpr at::DeviceType kKernelDevice = at::kCUDA;
#else
constexpr at::DeviceType kKernelDevice = at::kCPU;
#endif

inline at::ScalarType scalar_type(kernels::Type type) {
  return type == kernels::Type::kFloat ? at::kFloat : type == kernels::Type::kHalf ? at::kHalf : at::kBFloat16;
}

}  // namespace liger
