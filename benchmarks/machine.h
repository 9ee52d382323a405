#pragma once

#include <cstdint>

namespace liger::benchmarks {

/// Multiply-adds of one core with nothing to load, in GFLOP/s: what a kernel's arithmetic is measured against.
double fma_gflops();

/// GB/s at which `threads` threads read a buffer of `bytes`, each several streams of its part: the best of some runs.
double read_gigabytes(int64_t bytes, int threads);

}  // namespace liger::benchmarks
