// The one matrix product of the CPU kernels: small operands in cache, a tile of the result in registers.
#pragma once

#include "cpu/vec.h"

namespace liger {
namespace {

enum class Into {
  kSet,    ///< C = A B
  kAdd,    ///< C += A B
  kScale,  ///< C = diag(scale) C + A B
};

/// A [M, K] with any strides; B [K, N] and C [M, N] with rows of whole vectors (N a multiple of the vector width).
template <typename T>
struct Product {
  const T* A;
  int64_t a_row, a_column;
  const T* B;
  int64_t b_row;
  T* C;
  int64_t c_row;
  const T* scale = nullptr;  ///< [M], for Into::kScale
};

template <typename T, Into kInto, int kRows, int kVectors>
__attribute__((always_inline)) inline void product_tile(const Product<T>& p, int64_t m, int64_t n, int64_t K) {
  constexpr int64_t W = kWidth<T>;
  const T* A = p.A + m * p.a_row;
  const T* B = p.B + n;
  T* C = p.C + m * p.c_row + n;
  Vec<T> c[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kInto == Into::kSet) c[r][v] = Vec<T>{};
      if constexpr (kInto == Into::kAdd) c[r][v] = load(C + r * p.c_row + v * W);
      if constexpr (kInto == Into::kScale) c[r][v] = load(C + r * p.c_row + v * W) * p.scale[m + r];
    }
  for (int64_t k = 0; k < K; ++k) {
    Vec<T> b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = load(B + k * p.b_row + v * W);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T a = A[r * p.a_row + k * p.a_column];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) c[r][v] += a * b[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(C + r * p.c_row + v * W, c[r][v]);
}

// A column of tiles: the tallest that fit, then the rest one by one.
template <typename T, Into kInto, int kRows, int kVectors>
inline void product_column(const Product<T>& p, int64_t n, int64_t M, int64_t K) {
  int64_t m = 0;
  for (; m + kRows <= M; m += kRows) product_tile<T, kInto, kRows, kVectors>(p, m, n, K);
  if constexpr (kRows > 4)
    for (; m + 4 <= M; m += 4) product_tile<T, kInto, 4, kVectors>(p, m, n, K);
  for (; m < M; ++m) product_tile<T, kInto, 1, kVectors>(p, m, n, K);
}

/// Twelve accumulators with 16 registers, twenty-four with 32.
template <Into kInto, typename T>
__attribute__((noinline)) void product(int64_t M, int64_t N, int64_t K, const Product<T>& p) {
  constexpr int kTall = LIGER_LANES == 64 ? 2 : 1;
  const int64_t vectors = N / kWidth<T>;
  int64_t n = 0;
  const auto at = [&](int64_t vector) { return vector * kWidth<T>; };
  if (vectors % 3 == 1 && vectors >= 4) {  // 4 = 2 + 2 rather than 3 + 1
    for (; n + 4 < vectors; n += 3) product_column<T, kInto, 4 * kTall, 3>(p, at(n), M, K);
  } else {
    for (; n + 3 <= vectors; n += 3) product_column<T, kInto, 4 * kTall, 3>(p, at(n), M, K);
  }
  for (; n + 2 <= vectors; n += 2) product_column<T, kInto, 4 * kTall, 2>(p, at(n), M, K);
  for (; n < vectors; ++n) product_column<T, kInto, 8, 1>(p, at(n), M, K);
}

}  // namespace
}  // namespace liger
