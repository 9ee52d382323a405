#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace liger::benchmarks {

/// What the current device says of itself. Throws where there is none.
struct Gpu {
  std::string name;
  int major = 0, minor = 0, multiprocessors = 0;
  int64_t l2_bytes = 0, memory_bytes = 0;
  double nominal_bandwidth = 0;  ///< bytes/s, from its memory's clock and width; 0 where it does not tell them
  int driver = 0, runtime = 0;   ///< as CUDA counts: 13000
};
Gpu current_gpu();

struct Time {
  double median_ms = 0, fastest_ms = 0, slowest_ms = 0;
  int runs = 0;
};
/// Times `launch`, which puts work on the default stream, with the device's own clock. Before each run a buffer larger
/// than the L2 cache is written, so that every input comes from memory.
Time time_of(const Gpu& gpu, const std::function<void()>& launch);

/// What the device reaches in this run: the two roofs that kernels are measured against.
struct Peaks {
  double bandwidth = 0;  ///< bytes/s read and written by a copy of 2 GiB
  double tensor = 0;     ///< FLOP/s of cuBLAS multiplying bfloat16 matrices of 8192^2 random numbers
};
Peaks measure_peaks(const Gpu& gpu);

}  // namespace liger::benchmarks
