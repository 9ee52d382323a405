#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

/// Nobody chooses the order in which a GPU's threads run: what a test asks for here changes nothing, and to compare
/// several orders is to compare several runs.
namespace cuda_on_host {
inline unsigned thread_order = 0;
}

namespace liger::gpu {

/// Throws what CUDA says. An error inside a kernel stays: the first test that reports it is the one that made it.
inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

/// Bytes on the GPU, an allocation of exactly that size.
class Memory {
 public:
  explicit Memory(size_t bytes) { check(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  Memory(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  void* data() const { return data_; }
  void write(const void* from, size_t bytes) {
    check(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy to the GPU");
  }
  /// Waits for the kernels launched before.
  void read(void* to, size_t bytes) const {
    check(cudaDeviceSynchronize(), "a kernel");
    check(cudaMemcpy(to, data_, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy from the GPU");
  }

 private:
  void* data_ = nullptr;
};

}  // namespace liger::gpu
