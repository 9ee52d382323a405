// Vectors of the instruction set that this translation unit is compiled for. Included only by kernels_*.cpp, each of
// which sets LIGER_LANES to the bytes of a vector register; everything is in an unnamed namespace, so that no function
// compiled for one instruction set can be linked into code for another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace liger {
namespace {

template <typename T>
struct Lanes {
  static constexpr int64_t kWidth = LIGER_LANES / sizeof(T);
  typedef T Vector __attribute__((vector_size(LIGER_LANES)));
  typedef T Unaligned __attribute__((vector_size(LIGER_LANES), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Vec = typename Lanes<T>::Vector;
template <typename T>
inline constexpr int64_t kWidth = Lanes<T>::kWidth;

/// Tokens that the scans and the window work on together: enough for what loads and stores a state once a chunk to cost
/// little beside its multiply-adds. Decays between
/// two tokens, which grow with the square of a chunk, a scan forms for each half alone.
inline constexpr int64_t kChunk = 16, kHalf = kChunk / 2;

/// The number of scalars that n of them occupy in whole vectors.
template <typename T>
constexpr int64_t padded(int64_t n) {
  return (n + kWidth<T> - 1) / kWidth<T> * kWidth<T>;
}

/// Between the rows of a state with n columns: whole cache lines, an odd number of them, so that the rows of a column
/// spread over all cache sets.
template <typename T>
constexpr int64_t state_stride(int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return ((n + kLine - 1) / kLine | 1) * kLine;
}

template <typename T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Lanes<T>::Unaligned*>(p);
}
template <typename T>
inline void store(T* p, Vec<T> x) {
  *reinterpret_cast<typename Lanes<T>::Unaligned*>(p) = x;
}
template <typename T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

template <typename T>
inline T sum(Vec<T> x) {
  for (int64_t step = kWidth<T> / 2; step > 0; step /= 2)
    for (int64_t i = 0; i < step; ++i) x[i] += x[i + step];
  return x[0];
}
template <typename T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <typename T>
inline Vec<T> min(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}
template <typename T>
inline T max_lane(Vec<T> x) {
  T best = x[0];
  for (int64_t i = 1; i < kWidth<T>; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

typedef int32_t Int32 __attribute__((vector_size(LIGER_LANES)));

/// e^x within 2 ulp: x = n ln 2 + r with |r| <= ln(2)/2, e^r by its series up to r^7/7! (the rest is below 6e-9), times
/// 2^n. Below -87.3 the result is 0, above 88.3 it is that of 88.3.
inline Vec<float> exp(Vec<float> x) {
  const Vec<float> clamped = min<float>(max<float>(x, splat(-87.3f)), splat(88.3f));
  constexpr float kRound = 12582912.0f;  // adding 1.5 * 2^23 leaves the nearest integer in the low bits
  const Vec<float> shifted = clamped * 1.44269504088896341f + kRound;
  const Vec<float> n = shifted - kRound;
  const Vec<float> r = (clamped - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  Vec<float> p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Int32 power = (reinterpret_cast<Int32>(shifted) << 23) + (127 << 23);
  return x < -87.3f ? Vec<float>{} : p * reinterpret_cast<Vec<float>>(power);
}
inline Vec<double> exp(Vec<double> x) {
  for (int64_t i = 0; i < kWidth<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

/// log(1 + y) for y in [0, 1], within 2 ulp: 2 artanh(s), s = y / (2 + y) <= 1/3, by its series up to s^15.
inline Vec<float> log1p_unit(Vec<float> y) {
  const Vec<float> s = y / (y + 2.0f), z = s * s;
  Vec<float> p = splat(1.0f / 15);
  p = p * z + 1.0f / 13;
  p = p * z + 1.0f / 11;
  p = p * z + 1.0f / 9;
  p = p * z + 1.0f / 7;
  p = p * z + 1.0f / 5;
  p = p * z + 1.0f / 3;
  return 2.0f * (p * z * s + s);
}
inline Vec<double> log1p_unit(Vec<double> y) {
  for (int64_t i = 0; i < kWidth<double>; ++i) y[i] = std::log1p(y[i]);
  return y;
}

/// e^x - 1 for x <= 0, within 3 ulp: the series up to x^9 near 0, where the difference would cancel.
inline Vec<float> expm1_negative(Vec<float> x) {
  Vec<float> p = splat(1.0f / 362880);
  p = p * x + 1.0f / 40320;
  p = p * x + 1.0f / 5040;
  p = p * x + 1.0f / 720;
  p = p * x + 1.0f / 120;
  p = p * x + 1.0f / 24;
  p = p * x + 1.0f / 6;
  p = p * x + 0.5f;
  const Vec<float> near = p * (x * x) + x;
  return x > -0.5f ? near : exp(x) - 1.0f;
}
inline Vec<double> expm1_negative(Vec<double> x) {
  for (int64_t i = 0; i < kWidth<double>; ++i) x[i] = std::expm1(x[i]);
  return x;
}

template <typename T>
inline Vec<T> magnitude(Vec<T> x) {
  return x < T(0) ? -x : x;
}
/// log(1 + e^x).
template <typename T>
inline Vec<T> softplus(Vec<T> x) {
  return max<T>(x, Vec<T>{}) + log1p_unit(exp(-magnitude<T>(x)));
}
template <typename T>
inline Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> e = exp(-magnitude<T>(x)), inverse = T(1) / (e + T(1));
  return x >= T(0) ? inverse : e * inverse;
}

// Element types of tensors: float and double are computed in as they are, bfloat16 only stored.
struct BFloat16 {
  uint16_t bits;
};

// By vectors rather than memcpy: rows are short, and a call for each costs as much as the copy.
template <typename T>
inline void load_row(const T* from, int64_t n, T* to) {  // `to` has room for whole vectors; the rest becomes 0
  int64_t i = 0;
  for (; i + kWidth<T> <= n; i += kWidth<T>) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
  for (; i < padded<T>(n); ++i) to[i] = 0;
}
template <typename T>
inline void store_row(const T* from, int64_t n, T* to) {
  int64_t i = 0;
  for (; i + kWidth<T> <= n; i += kWidth<T>) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

inline float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
inline BFloat16 narrow(float x) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline void load_row(const BFloat16* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
  for (int64_t i = n; i < padded<float>(n); ++i) to[i] = 0;
}
inline void store_row(const float* from, int64_t n, BFloat16* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = narrow(from[i]);
}

}  // namespace
}  // namespace liger
