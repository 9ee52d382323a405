#pragma once

// The one place a kernel is launched, and the CUDA words that its source needs. Tests compile the same sources for the
// host: tests/cuda_on_host.h defines LIGER_ON_HOST and these words before this header is seen.
#ifndef LIGER_ON_HOST
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>

#define LIGER_DEVICE __device__ __forceinline__
#define LIGER_UNROLL _Pragma("unroll")
#define LIGER_ROLLED _Pragma("unroll 1")
#define LIGER_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace liger::kernels {

/// nullptr, or what went wrong: the kernel, the launch and the device. The text is this thread's until its next launch.
template <typename Kernel, typename Arguments>
const char* launch(const char* name, Kernel* kernel, dim3 grid, unsigned threads, size_t shared, void* stream,
                   const Arguments& arguments) {
  cudaError_t error = cudaSuccess;
  if (shared > 48 * 1024)  // more than every device gives without being asked
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (error == cudaSuccess) {
    void* parameters[] = {const_cast<Arguments*>(&arguments)};
    error = cudaLaunchKernel(kernel, grid, threads, parameters, shared, static_cast<cudaStream_t>(stream));
  }
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // said here; not to be found again by whoever asks next
  int device = -1;
  cudaGetDevice(&device);
  thread_local char text[256];
  snprintf(text, sizeof text, "%s, grid (%u, %u, %u) of %u threads with %zu bytes of shared memory, on device %d: %s",
           name, grid.x, grid.y, grid.z, threads, shared, device, cudaGetErrorString(error));
  return text;
}

}  // namespace liger::kernels
#endif
