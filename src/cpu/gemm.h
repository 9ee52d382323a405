// The one matrix product of the CPU kernels: small operands in cache, a tile of the result in registers.
#pragma once

#include "cpu/vec.h"

namespace liger {
namespace {

enum class Into {
  kSet,       ///< C = A B
  kAdd,       ///< C += A B
  kScale,     ///< C = diag(scale) from + A B
  kAddLower,  ///< C += A B, where A is 0 right of its diagonal
  kAddUpper,  ///< C += A B, where A is 0 left of its diagonal
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
  const T *from = nullptr, *scale = nullptr;  ///< as C, and [M], for Into::kScale; `from` may be C
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
      if constexpr (kInto == Into::kSet) {
        c[r][v] = Vec<T>{};
      } else if constexpr (kInto == Into::kScale) {
        c[r][v] = load(p.from + (m + r) * p.c_row + n + v * W) * p.scale[m + r];
      } else {
        c[r][v] = load(C + r * p.c_row + v * W);
      }
    }
  const int64_t end = kInto == Into::kAddLower && m + kRows < K ? m + kRows : K;
  for (int64_t k = kInto == Into::kAddUpper ? m : 0; k < end; ++k) {
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

// A column of tiles: the tallest while they leave nothing, or enough, for the next.
template <typename T, Into kInto, int kRows, int kVectors>
inline void product_column(const Product<T>& p, int64_t n, int64_t M, int64_t K) {
  int64_t m = 0;
  for (; M - m == kRows || M - m >= kRows + 4; m += kRows) product_tile<T, kInto, kRows, kVectors>(p, m, n, K);
  for (; m + 4 <= M; m += 4) product_tile<T, kInto, 4, kVectors>(p, m, n, K);
  for (; m < M; ++m) product_tile<T, kInto, 1, kVectors>(p, m, n, K);
}

/// The columns that one pass over A and B makes together.
template <typename T>
inline constexpr int64_t kPanel = 2 * kWidth<T>;

/// Twelve accumulators: with the two vectors of B and a value of A as many as 16 registers hold.
template <Into kInto, typename T>
__attribute__((noinline)) void product(int64_t M, int64_t N, int64_t K, const Product<T>& p) {
  int64_t n = 0;
  for (; n + kPanel<T> <= N; n += kPanel<T>) product_column<T, kInto, 6, 2>(p, n, M, K);
  if (n < N) product_column<T, kInto, 8, 1>(p, n, M, K);
}

}  // namespace
}  // namespace liger
