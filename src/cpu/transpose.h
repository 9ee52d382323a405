// What moves values between lanes: matrices turned, a square of vectors at a time, and lanes summed.
#pragma once

#include <utility>

#include "cpu/vec.h"

namespace liger {
namespace {

// Transposes a square of vectors: swaps the off-diagonal blocks of kStep lanes, then of twice as many.
template <typename T, int kStep = 1, int... I>
inline void transpose_square(Vec<T>* x, std::integer_sequence<int, I...> lanes) {
  constexpr int W = kWidth<T>;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i & kStep) continue;
    const Vec<T> a = x[i], b = x[i + kStep];
    x[i] = __builtin_shufflevector(a, b, (I & kStep ? W + I - kStep : I)...);
    x[i + kStep] = __builtin_shufflevector(a, b, (I & kStep ? W + I : I + kStep)...);
  }
  if constexpr (2 * kStep < W) transpose_square<T, 2 * kStep>(x, lanes);
}

/// to[c][r] = from[r][c] for `rows` and `columns` of whole vectors.
template <typename T>
inline void transpose(int64_t rows, int64_t columns, const T* from, int64_t from_row, T* to, int64_t to_row) {
  constexpr int64_t W = kWidth<T>;
  for (int64_t r = 0; r < rows; r += W)
    for (int64_t c = 0; c < columns; c += W) {
      Vec<T> x[W];
#pragma GCC unroll 16
      for (int64_t i = 0; i < W; ++i) x[i] = load(from + (r + i) * from_row + c);
      transpose_square<T>(x, std::make_integer_sequence<int, kWidth<T>>{});
#pragma GCC unroll 16
      for (int64_t i = 0; i < W; ++i) store(to + (c + i) * to_row + r, x[i]);
    }
}

// Adds halves of vectors until x[0] has the sum of the lanes of x[i] in lane i.
template <typename T, int kCount = kWidth<T>, int... I>
inline void sum_square(Vec<T>* x, std::integer_sequence<int, I...> lanes) {
  constexpr int W = kWidth<T>, kStep = kCount / 2;
#pragma GCC unroll 16
  for (int i = 0; i < kStep; ++i) {
    const Vec<T> a = x[i], b = x[i + kStep];
    x[i] = __builtin_shufflevector(a, b, (I & kStep ? W + I - kStep : I)...) +
           __builtin_shufflevector(a, b, (I & kStep ? W + I : I + kStep)...);
  }
  if constexpr (kStep > 1) sum_square<T, kStep>(x, lanes);
}
/// to[i] = the sum of the lanes of x[i].
template <typename T, int kCount>
inline void sum_lanes(const Vec<T> (&x)[kCount], T* to) {
  constexpr int W = kWidth<T>, kFilled = kCount < W ? kCount : W;
  static_assert(kCount % kFilled == 0);
  for (int first = 0; first < kCount; first += W) {
    Vec<T> square[W] = {};
#pragma GCC unroll 16
    for (int i = 0; i < kFilled; ++i) square[i] = x[first + i];
    sum_square<T>(square, std::make_integer_sequence<int, W>{});
    if constexpr (kCount % W == 0) {
      store(to + first, square[0]);
    } else {
      for (int i = 0; i < kCount; ++i) to[i] = square[0][i];
    }
  }
}

}  // namespace
}  // namespace liger
