#pragma once

// Enough of CUDA to run kernels without barriers on the host, one thread after the other. A test includes this, then
// the .cu file itself.

#include <functional>

#define __global__
#define __device__
#define LIGER_UNROLL

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 gridDim(1), blockDim(1), blockIdx(0), threadIdx(0);

inline void run_on_host(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  gridDim = grid;
  blockDim = block;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) kernel();
}

#define LIGER_LAUNCH(kernel, grid, block, stream, ...) run_on_host(grid, block, [&] { kernel(__VA_ARGS__); })
#define LIGER_LAUNCH_ERROR() nullptr
