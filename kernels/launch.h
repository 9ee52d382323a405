#pragma once

// The one place a kernel is launched, so that tests can compile the same sources for the host
// (tests/cuda_on_host.h defines LIGER_LAUNCH before this header is seen).
#ifndef LIGER_LAUNCH
#include <cuda_runtime.h>
#define LIGER_UNROLL _Pragma("unroll")
#define LIGER_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define LIGER_LAUNCH_ERROR() \
  (cudaPeekAtLastError() == cudaSuccess ? nullptr : cudaGetErrorString(cudaGetLastError()))
#endif
