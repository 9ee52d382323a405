// From the raw rows of a chunk to the inputs of a scan, and gradients back: the feature maps and gates of
// core/structure.h, a token's row at a time. Rows are padded to whole vectors; padding is 0 in and out.
#pragma once

#include "cpu/vec.h"
#include "liger/core/structure.h"

namespace liger {
namespace {

template <typename T>
struct RowMaps {
  int64_t D, Dp = padded<T>(D);

  template <typename Map>
  void each(const Map& map) const {
    for (int64_t d = 0; d < Dp; d += kWidth<T>) map(d);
  }
  void clear_padding(T* row) const {
    for (int64_t d = D; d < Dp; ++d) row[d] = 0;
  }
  T dot(const T* a, const T* b) const {
    Vec<T> total = {};
    each([&](int64_t d) { total += load(a + d) * load(b + d); });
    return sum<T>(total);
  }

  void softmax(const T* x, T* y) const {
    T largest = x[0];
    for (int64_t d = 1; d < D; ++d) largest = x[d] > largest ? x[d] : largest;
    each([&](int64_t d) { store(y + d, exp(load(x + d) - largest)); });
    clear_padding(y);
    Vec<T> total = {};
    each([&](int64_t d) { total += load(y + d); });
    const T inverse = 1 / sum<T>(total);
    each([&](int64_t d) { store(y + d, load(y + d) * inverse); });
  }
  /// dx += the gradient through y = softmax(x).
  void softmax_backward(const T* y, const T* dy, T* dx) const {
    const T mean = dot(y, dy);
    each([&](int64_t d) { store(dx + d, load(dx + d) + load(y + d) * (load(dy + d) - mean)); });
  }

  T inverse_norm(const T* x) const { return 1 / std::sqrt(dot(x, x) + T(1e-6)); }

  static T larger_of(T a, T b) { return a > b ? a : b; }
  static Vec<T> held(Vec<T> x) {
    constexpr T kMost = static_cast<T>(kLargestExponent);
    return max<T>(min<T>(x, splat(kMost)), splat(-kMost));
  }
  /// y [2 D] = (f(x), f(-x)), its padding 0.
  template <typename Function>
  void pair(const T* x, T* y, const Function& f) const {
    each([&](int64_t d) { store(y + d, f(load(x + d))); });
    int64_t d = 0;
    for (; d + kWidth<T> <= D; d += kWidth<T>) store(y + D + d, f(-load(x + d)));
    if (d < D) {
      const Vec<T> last = f(-load(x + d));
      for (int64_t i = 0; d + i < D; ++i) y[D + d + i] = last[i];
    }
    RowMaps{2 * D}.clear_padding(y);
  }

  /// `y` has room for whole vectors of all features.
  void map(FeatureMap how, const T* x, T* y) const {
    switch (how) {
      case FeatureMap::kIdentity: return each([&](int64_t d) { store(y + d, load(x + d)); });
      case FeatureMap::kSoftmax: return softmax(x, y);
      case FeatureMap::kUnit: {
        const T inverse = inverse_norm(x);
        return each([&](int64_t d) { store(y + d, load(x + d) * inverse); });
      }
      case FeatureMap::kComplement:
        each([&](int64_t d) { store(y + d, sigmoid<T>(-load(x + d))); });
        return clear_padding(y);
      case FeatureMap::kExpPair: return pair(x, y, [](Vec<T> z) { return exp(held(z)); });
      case FeatureMap::kSoftmaxPair: {
        T largest = 0;
        for (int64_t d = 0; d < D; ++d) largest = larger_of(largest, std::abs(x[d]));
        pair(x, y, [&](Vec<T> z) { return exp(z - largest); });
        const RowMaps both{2 * D};
        const T inverse = 1 / (both.mean(y) * static_cast<T>(2 * D));
        return both.each([&](int64_t d) { store(y + d, load(y + d) * inverse); });
      }
    }
  }
  /// dx += the gradient through y = map(x).
  void map_backward(FeatureMap how, const T* x, const T* y, const T* dy, T* dx) const {
    switch (how) {
      case FeatureMap::kIdentity: return each([&](int64_t d) { store(dx + d, load(dx + d) + load(dy + d)); });
      case FeatureMap::kSoftmax: return softmax_backward(y, dy, dx);
      case FeatureMap::kUnit: {
        const T inverse = inverse_norm(x), along = dot(y, dy);
        return each([&](int64_t d) { store(dx + d, load(dx + d) + (load(dy + d) - load(y + d) * along) * inverse); });
      }
      case FeatureMap::kComplement:
        return each([&](int64_t d) {
          const Vec<T> value = load(y + d);
          store(dx + d, load(dx + d) - value * (T(1) - value) * load(dy + d));
        });
      case FeatureMap::kExpPair:
        for (int64_t d = 0; d < D; ++d)
          if (std::abs(x[d]) <= T(kLargestExponent)) dx[d] += y[d] * dy[d] - y[D + d] * dy[D + d];
        return;
      case FeatureMap::kSoftmaxPair: {
        const T mean = RowMaps{2 * D}.dot(y, dy);
        for (int64_t d = 0; d < D; ++d) dx[d] += y[d] * (dy[d] - mean) - y[D + d] * (dy[D + d] - mean);
        return;
      }
    }
  }

  T mean(const T* x) const {
    Vec<T> total = {};
    each([&](int64_t d) { total += load(x + d); });
    return sum<T>(total) / static_cast<T>(D);
  }
};

/// g(x) and dg/dx of the decays that depend on the key, times `factor`.
template <typename T>
inline Vec<T> log_decay(Decay decay, Vec<T> x, T factor) {
  if (decay == Decay::kExp) return -exp(min<T>(x, splat(T(20)))) * factor;
  return -softplus<T>(decay == Decay::kLogSigmoid ? -x : x) * factor;
}
template <typename T>
inline Vec<T> log_decay_slope(Decay decay, Vec<T> x, T factor) {
  if (decay == Decay::kExp) return (x < T(20) ? -exp(x) : Vec<T>{}) * factor;
  return (decay == Decay::kLogSigmoid ? sigmoid<T>(-x) : -sigmoid<T>(x)) * factor;
}

}  // namespace
}  // namespace liger
