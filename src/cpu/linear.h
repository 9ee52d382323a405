// Decoding one token of 1 to 4 sequences: matrix-vector products that read each weight once, in place, at the speed of
// memory, and the small operations between them. Activations are float; weights are float or BFloat16 as in the file.
//
// How the weights are read decides the speed. A short row ends before the hardware prefetcher has got ahead of it, and
// neighbouring rows make short streams of what could be long ones. So the rows of a range are taken as several streams
// far apart, each running through its own part of the range without a jump.
#pragma once

#include <cstddef>
#include <utility>

#include "cpu/activation.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace liger {
namespace {

/// A weight [rows, columns], row-major with no gaps, at any address: it may lie in a mapped file.
template <typename T>
struct Weight {
  const T* data;
  int64_t columns;
  const float* bias = nullptr;  ///< [rows]
};

/// Activations of some sequences: row s starts at data + s * stride. Reading is fastest if each row is aligned to 64.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  T* operator[](int64_t s) const { return data + s * stride; }
};

inline constexpr int64_t kStep = 2 * kWidth<float>;  // columns that the inner loop takes at once
struct Pair {
  Vec<float> low, high;
};

typedef uint16_t Halves __attribute__((vector_size(LIGER_LANES)));
typedef uint16_t MappedHalves __attribute__((vector_size(LIGER_LANES), aligned(1), may_alias));
typedef float MappedFloats __attribute__((vector_size(LIGER_LANES), aligned(1), may_alias));

template <std::size_t kCount>
using Lane = std::make_index_sequence<kCount>;

// Interleaving zeros with 16-bit lanes widens bfloat16 in one instruction, which works within 16 bytes: of each 8
// columns the first 4 land in `low`, the others in `high`. Activations are put in the same order, once for all rows.
template <std::size_t... i>
inline Pair widen(Halves x, std::index_sequence<i...>) {
  constexpr std::size_t kCount = sizeof...(i);
  const Halves zero = {};
  return {
      reinterpret_cast<Vec<float>>(__builtin_shufflevector(zero, x, (i / 8 * 8 + i % 8 / 2 + i % 2 * kCount)...)),
      reinterpret_cast<Vec<float>>(__builtin_shufflevector(zero, x, (i / 8 * 8 + i % 8 / 2 + i % 2 * kCount + 4)...))};
}
template <std::size_t... i>
inline Pair in_widened_order(Pair x, std::index_sequence<i...>) {
  return {__builtin_shufflevector(x.low, x.high, (i / 4 * 8 + i % 4)...),
          __builtin_shufflevector(x.low, x.high, (i / 4 * 8 + i % 4 + 4)...)};
}

inline Pair load_weights(const float* p) {
  return {*reinterpret_cast<const MappedFloats*>(p), *reinterpret_cast<const MappedFloats*>(p + kWidth<float>)};
}
inline Pair load_weights(const BFloat16* p) {
  return widen(*reinterpret_cast<const MappedHalves*>(p), Lane<LIGER_LANES / 2>());
}
template <typename T>
inline Pair load_inputs(const float* p) {
  const Pair x = {load(p), load(p + kWidth<float>)};
  if constexpr (sizeof(T) == 4) return x;
  return in_widened_order(x, Lane<kWidth<float>>());
}

/// The inputs of a product, with the columns that do not fill a step copied out, so that nothing is read past the end.
template <int kSequences>
struct Inputs {
  Inputs(Rows<const float> rows, int64_t columns) : x(rows), whole(columns / kStep * kStep), rest(columns - whole) {
    for (int s = 0; s < kSequences; ++s)
      std::memcpy(tail + s * kStep, x[s] + whole, sizeof(float) * static_cast<size_t>(rest));
  }
  Rows<const float> x;
  int64_t whole, rest;
  alignas(64) float tail[kSequences * kStep] = {};
};

/// The scalar products of some rows with each sequence. One accumulator each, whatever the number of rows and
/// sequences: then a result has the same bits however the rows are split over threads and the sequences over calls.
template <typename T, int kRows, int kSequences>
struct Dots {
  Vec<float> sums[kRows][kSequences] = {};

  __attribute__((always_inline)) void step(const T* const* rows, int64_t column, const float* x, int64_t stride) {
    Pair inputs[kSequences];
#pragma GCC unroll 4
    for (int s = 0; s < kSequences; ++s) inputs[s] = load_inputs<T>(x + s * stride + column);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Pair w = load_weights(rows[r] + column);
#pragma GCC unroll 4
      for (int s = 0; s < kSequences; ++s) {
        sums[r][s] += w.low * inputs[s].low;
        sums[r][s] += w.high * inputs[s].high;
      }
    }
  }

  __attribute__((always_inline)) void run(const T* const (&rows)[kRows], const Inputs<kSequences>& in) {
    for (int64_t c = 0; c < in.whole; c += kStep) step(rows, c, in.x.data, in.x.stride);
    if (in.rest == 0) return;
    T ends[kRows][kStep] = {};
    const T* tails[kRows];
    for (int r = 0; r < kRows; ++r) {
      std::memcpy(ends[r], rows[r] + in.whole, sizeof(T) * static_cast<size_t>(in.rest));
      tails[r] = ends[r];
    }
    step(tails, 0, in.tail, kStep);
  }
};

/// Rows read side by side: eight accumulators hide the latency of an addition. On a Zen 3 core, rows of 768 bfloat16
/// came from memory at 14 GB/s one after another, at 10 as four neighbours and at 24 as four far apart.
template <int kSequences>
inline constexpr int kStreams = kSequences == 1 ? 8 : 4;

/// Writes the rows [begin, end) of y: row, row + apart, ... together while there are kRows of them, then one by one.
template <int kRows, int kSequences, typename T>
__attribute__((always_inline)) inline void stream_rows(const Weight<T>& w, int64_t begin, int64_t end,
                                                       const Inputs<kSequences>& in, Rows<float> y) {
  const int64_t apart = (end - begin) / kRows;
  for (int64_t row = begin; row < begin + apart; ++row) {
    const T* rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = w.data + (row + r * apart) * w.columns;
    Dots<T, kRows, kSequences> dots;
    dots.run(rows, in);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = row + r * apart;
#pragma GCC unroll 4
      for (int s = 0; s < kSequences; ++s) y[s][at] = sum<float>(dots.sums[r][s]) + (w.bias ? w.bias[at] : 0);
    }
  }
  if constexpr (kRows > 1) stream_rows<1>(w, begin + apart * kRows, end, in, y);
}

template <int kSequences, typename T>
__attribute__((noinline)) void dot_rows(const Weight<T>& w, int64_t begin, int64_t end, Rows<const float> x,
                                        Rows<float> y) {
  stream_rows<kStreams<kSequences>>(w, begin, end, Inputs<kSequences>(x, w.columns), y);
}

/// y[s][r] = sum_c w[r][c] x[s][c] (+ w.bias[r]) for the rows [begin, end) and 1 to 4 sequences.
template <typename T>
void dot_rows(const Weight<T>& w, int64_t begin, int64_t end, int64_t sequences, Rows<const float> x, Rows<float> y) {
  if (sequences == 1) dot_rows<1>(w, begin, end, x, y);
  if (sequences == 2) dot_rows<2>(w, begin, end, x, y);
  if (sequences == 3) dot_rows<3>(w, begin, end, x, y);
  if (sequences == 4) dot_rows<4>(w, begin, end, x, y);
}

/// gates = activation(gates) * ups.
inline void gate_by(GateActivation activation, const float* ups, int64_t n, float* gates) {
  constexpr int64_t W = kWidth<float>;
  int64_t i = 0;
  for (; i + W <= n; i += W) store(gates + i, activate(activation, load(gates + i)) * load(ups + i));
  Vec<float> rest = {};
  for (int64_t j = i; j < n; ++j) rest[j - i] = gates[j];
  rest = activate(activation, rest);
  for (int64_t j = i; j < n; ++j) gates[j] = rest[j - i] * ups[j];
}

inline float dot(const float* a, const float* b, int64_t n) {
  Vec<float> sums = {};
  int64_t i = 0;
  for (; i + kWidth<float> <= n; i += kWidth<float>) sums += load(a + i) * load(b + i);
  float total = sum<float>(sums);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

inline float widen(float x) { return x; }

/// out = x / sqrt(mean(x^2) + eps) * weight, or * (1 + weight). `out` may be x.
template <typename T>
void rms_norm(const float* x, const T* weight, int64_t n, float eps, bool adds_one, float* out) {
  const float scale = 1 / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps), one = adds_one ? 1.0f : 0.0f;
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * (widen(weight[i]) + one);
}

/// A row of an embedding as floats; unlike load_row, nothing is written past it.
template <typename T>
void widen_row(const T* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
}

/// Columns of low-rank additions that are summed side by side.
inline constexpr int64_t kSums = kWidth<float> == 16 ? 4 : 2;

/// kVectors vectors of columns from `column` on, or `n` columns that are no whole one, of kRows sequences.
template <int kRows, int64_t kVectors, bool kPart>
__attribute__((always_inline)) inline void low_rank_columns(const LowRankView& B, int64_t column, int64_t n,
                                                            Rows<const float> h, Rows<float> y) {
  constexpr int64_t W = kWidth<float>;
  const auto read = [n](const float* from) {
    if constexpr (!kPart) return load(from);
    float padded[W] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = from[i];
    return load(padded);
  };
  Vec<float> sums[kRows][kVectors] = {};
  for (int64_t j = 0; j < B.rank; ++j) {
    Vec<float> b[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) b[v] = read(B.data + j * B.columns + column + v * W);
#pragma GCC unroll 4
    for (int s = 0; s < kRows; ++s) {
      const Vec<float> of_row = splat(h[s][j]);
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) sums[s][v] += of_row * b[v];
    }
  }
  for (int s = 0; s < kRows; ++s)
    for (int64_t v = 0; v < kVectors; ++v) {
      float* to = y[s] + column + v * W;
      const Vec<float> out = read(to) + splat(B.scale) * sums[s][v];
      if constexpr (!kPart) store(to, out);
      for (int64_t i = 0; kPart && i < n; ++i) to[i] = out[i];
    }
}

template <int64_t kVectors, bool kPart>
void low_rank_block(const LowRankView& B, int64_t column, int64_t n, int64_t sequences, Rows<const float> h,
                    Rows<float> y) {
  int64_t s = 0;
  for (; s + 4 <= sequences; s += 4)
    low_rank_columns<4, kVectors, kPart>(B, column, n, {h[s], h.stride}, {y[s], y.stride});
  for (; s < sequences; ++s) low_rank_columns<1, kVectors, kPart>(B, column, n, {h[s], h.stride}, {y[s], y.stride});
}

/// y[s][r] += scale * sum_j h[s][j] B[j][r] for the columns [begin, end), block by block, which stay near for all rows.
inline void add_low_rank(const LowRankView& B, int64_t begin, int64_t end, int64_t sequences, Rows<const float> h,
                         Rows<float> y) {
  constexpr int64_t W = kWidth<float>;
  int64_t column = begin;
  for (; column + kSums * W <= end; column += kSums * W) low_rank_block<kSums, false>(B, column, W, sequences, h, y);
  for (; column + W <= end; column += W) low_rank_block<1, false>(B, column, W, sequences, h, y);
  if (column < end) low_rank_block<1, true>(B, column, end - column, sequences, h, y);
}

}  // namespace
}  // namespace liger
