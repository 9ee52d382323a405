// What this machine can do at best. Compiled with the flags of the best instruction set of the machine it is built on.

#include "machine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

namespace liger::benchmarks {
namespace {

#ifdef __AVX512F__
constexpr int kBytes = 64, kAccumulators = 24;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kAccumulators = 12;
#else
constexpr int kBytes = 16, kAccumulators = 12;
#endif
typedef float Vector __attribute__((vector_size(kBytes), may_alias));

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void keep(Vector x) { asm volatile("" : : "x"(x)); }

float* read_streams(float* data, int64_t vectors) {
  constexpr int kStreams = 4;
  Vector sums[kStreams] = {};
  const int64_t apart = vectors / kStreams;
  const auto* v = reinterpret_cast<const Vector*>(data);
  for (int64_t i = 0; i < apart; ++i)
    for (int s = 0; s < kStreams; ++s) sums[s] += v[s * apart + i];
  for (const Vector& sum : sums) keep(sum);
  return data;
}

}  // namespace

double fma_gflops() {
  Vector x[kAccumulators] = {};
  Vector a = {}, b = {};
  for (int i = 0; i < kBytes / 4; ++i) a[i] = 0.999f, b[i] = 1e-3f;
  constexpr int64_t kRounds = 4'000'000;
  double best = 0;
  for (int run = 0; run < 10; ++run) {
    const double start = now();
    for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 24
      for (Vector& accumulator : x) accumulator = accumulator * a + b;
      asm volatile("" : "+x"(a), "+x"(b));
    }
    best = std::max(best, 2.0 * kRounds * kAccumulators * (kBytes / 4) / (now() - start) * 1e-9);
  }
  for (const Vector& accumulator : x) keep(accumulator);
  return best;
}

double read_gigabytes(int64_t bytes, int threads) {
  const int64_t vectors = bytes / kBytes;
  std::vector<Vector> buffer(vectors);
  float* data = reinterpret_cast<float*>(buffer.data());
  double best = 0;
  for (int run = 0; run < 8; ++run) {
    const double start = now();
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t)
      team.emplace_back([&, t] { read_streams(data + vectors * t / threads * (kBytes / 4), vectors / threads); });
    for (std::thread& member : team) member.join();
    best = std::max(best, static_cast<double>(bytes) / (now() - start) * 1e-9);
  }
  return best;
}

}  // namespace liger::benchmarks
