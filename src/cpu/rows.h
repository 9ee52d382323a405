// Training's operations on rows: norm, gated activation, cross-entropy, each with its gradient in one pass over the
// data.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/activation.h"
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace liger {
namespace {

template <typename E>
using ComputeType = std::conditional_t<std::is_same_v<E, double>, double, float>;

inline float rounded(float x, const BFloat16*) { return widen(narrow(x)); }
template <typename T>
T rounded(T x, const T*) {
  return x;
}

template <typename T>
T total_of(const T* x, int64_t n) {  // of whole vectors: what is past n must be 0
  Vec<T> sums = {};
  for (int64_t i = 0; i < n; i += kWidth<T>) sums += load(x + i);
  return sum<T>(sums);
}

// Rows of n elements, widened one at a time.
template <typename E>
class NormRows {
  using T = ComputeType<E>;

 public:
  NormRows(const NormView& norm)
      : n_(norm.columns), norm_(norm), x_(padded<T>(n_)), d_(padded<T>(n_)), weight_(padded<T>(n_)) {
    load_row(static_cast<const E*>(norm.weight), n_, weight_.data());
    if (norm.adds_one)
      for (int64_t i = 0; i < n_; ++i) weight_[i] += 1;
  }
  void forward(const E* x, E* y) {
    const T scale = read(x);
    if (norm_.adds_one) {
      for (int64_t i = 0; i < n_; ++i) x_[i] = x_[i] * scale * weight_[i];
    } else {
      for (int64_t i = 0; i < n_; ++i) x_[i] = rounded(x_[i] * scale, x) * weight_[i];
    }
    store_row(x_.data(), n_, y);
  }
  // y = r x w with r = (mean(x^2) + eps)^-1/2:  dx = r (d w - x r^2 mean(d w x)),  dw = d r x.
  void backward(const E* x, const E* d, E* dx, T* d_weight) {
    const T scale = read(x);
    load_row(d, n_, d_.data());
    if (d_weight)
      for (int64_t i = 0; i < n_; ++i) d_weight[i] += d_[i] * x_[i] * scale;
    Vec<T> sums = {};
    for (int64_t i = 0; i < n_; i += kWidth<T>) {
      const Vec<T> g = load(d_.data() + i) * load(weight_.data() + i);
      store(d_.data() + i, g);
      sums += g * load(x_.data() + i);
    }
    const T shared = sum<T>(sums) / static_cast<T>(n_) * scale * scale;
    for (int64_t i = 0; i < n_; ++i) d_[i] = scale * (d_[i] - x_[i] * shared);
    store_row(d_.data(), n_, dx);
  }

 private:
  T read(const E* x) {
    load_row(x, n_, x_.data());
    Vec<T> squares = {};
    for (int64_t i = 0; i < n_; i += kWidth<T>) squares += load(x_.data() + i) * load(x_.data() + i);
    return 1 / std::sqrt(sum<T>(squares) / static_cast<T>(n_) + static_cast<T>(norm_.eps));
  }
  int64_t n_;
  NormView norm_;
  std::vector<T> x_, d_, weight_;
};

// Calls body with a null pointer to the element type.
template <typename Body>
void with_element(Element element, const Body& body) {
  switch (element) {
    case Element::kBFloat16: return body(static_cast<const BFloat16*>(nullptr));
    case Element::kDouble: return body(static_cast<const double*>(nullptr));
    default: return body(static_cast<const float*>(nullptr));
  }
}

inline void norm_rows(const NormView& norm, const void* x, int64_t rows, void* y) {
  with_element(norm.element, [&](auto null) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(null)>>;
    NormRows<E> run(norm);
    for (int64_t r = 0; r < rows; ++r)
      run.forward(static_cast<const E*>(x) + r * norm.columns, static_cast<E*>(y) + r * norm.columns);
  });
}
inline void norm_rows_backward(const NormView& norm, const void* x, const void* d, int64_t rows, void* dx,
                               void* d_weight) {
  with_element(norm.element, [&](auto null) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(null)>>;
    NormRows<E> run(norm);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = r * norm.columns;
      run.backward(static_cast<const E*>(x) + at, static_cast<const E*>(d) + at, static_cast<E*>(dx) + at,
                   static_cast<ComputeType<E>*>(d_weight));
    }
  });
}

inline constexpr int64_t kGatePiece = 1024;

// out = activation(gates) * ups; the activation is rounded to the element type first, as an operator of its own would.
inline void gate_rows(Element element, GateActivation activation, const void* gates, const void* ups, int64_t n,
                      void* out) {
  with_element(element, [&](auto null) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(null)>>;
    using T = ComputeType<E>;
    T g[kGatePiece], u[kGatePiece];
    for (int64_t at = 0; at < n; at += kGatePiece) {
      const int64_t count = std::min(kGatePiece, n - at);
      load_row(static_cast<const E*>(gates) + at, count, g);
      load_row(static_cast<const E*>(ups) + at, count, u);
      for (int64_t i = 0; i < count; i += kWidth<T>) store(g + i, activate(activation, load(g + i)));
      for (int64_t i = 0; i < count; ++i) g[i] = rounded(g[i], null) * u[i];
      store_row(g, count, static_cast<E*>(out) + at);
    }
  });
}
inline void gate_rows_backward(Element element, GateActivation activation, const void* gates, const void* ups,
                               const void* d, int64_t n, void* d_gates, void* d_ups) {
  with_element(element, [&](auto null) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(null)>>;
    using T = ComputeType<E>;
    T g[kGatePiece], u[kGatePiece], grad[kGatePiece];
    for (int64_t at = 0; at < n; at += kGatePiece) {
      const int64_t count = std::min(kGatePiece, n - at);
      load_row(static_cast<const E*>(gates) + at, count, g);
      load_row(static_cast<const E*>(ups) + at, count, u);
      load_row(static_cast<const E*>(d) + at, count, grad);
      for (int64_t i = 0; i < count; i += kWidth<T>) {
        const Vec<T> x = load(g + i), up = load(u + i), by = load(grad + i);
        store(u + i, by * activate(activation, x));
        store(g + i, by * up * activation_slope(activation, x));
      }
      store_row(g, count, static_cast<E*>(d_gates) + at);
      store_row(u, count, static_cast<E*>(d_ups) + at);
    }
  });
}

template <typename T>
double softmax_piece(T* x, int64_t n, SoftmaxRow& row, bool keep) {
  const int64_t whole = n / kWidth<T> * kWidth<T>;
  Vec<T> most = splat(static_cast<T>(row.largest));
  for (int64_t i = 0; i < whole; i += kWidth<T>) most = max<T>(most, load(x + i));
  T largest = max_lane<T>(most);
  for (int64_t i = whole; i < n; ++i) largest = std::max(largest, x[i]);
  // A NaN is no maximum of anything; it must not disappear.
  double total = 0;
  constexpr int64_t kPiece = 64 * kWidth<T>;  // as many terms to a float, the rest in double
  for (int64_t begin = 0; begin < whole; begin += kPiece) {
    Vec<T> sums = {};
    for (int64_t i = begin; i < std::min(begin + kPiece, whole); i += kWidth<T>) {
      const Vec<T> y = load(x + i) - largest, e = y == y ? exp(y) : y;
      sums += e;
      if (keep) store(x + i, e);
    }
    total += static_cast<double>(sum<T>(sums));
  }
  for (int64_t i = whole; i < n; ++i) {
    const T e = std::exp(x[i] - largest);
    total += static_cast<double>(e);
    if (keep) x[i] = e;
  }
  const double grown = std::exp(row.largest - static_cast<double>(largest));
  row.total = row.total * grown + total;
  row.largest = static_cast<double>(largest);
  return grown;
}
inline double softmax_piece_row(Element element, void* logits, int64_t n, SoftmaxRow& row, bool keep) {
  if (element == Element::kDouble) return softmax_piece(static_cast<double*>(logits), n, row, keep);
  return softmax_piece(static_cast<float*>(logits), n, row, keep);
}

// Returns log(sum of exp(x)) - x[target]; with `gradient`, x becomes softmax(x) - onehot(target).
template <typename T>
double cross_entropy(T* x, int64_t n, int64_t target, bool gradient) {
  const auto at_target = static_cast<double>(x[target]);
  SoftmaxRow row;
  softmax_piece(x, n, row, gradient);
  if (gradient) {
    const T scale = static_cast<T>(1 / row.total);
    for (int64_t i = 0; i < n; ++i) x[i] *= scale;
    x[target] -= 1;
  }
  return std::log(row.total) - (at_target - row.largest);
}
inline double cross_entropy_row(Element element, void* logits, int64_t n, int64_t target, bool gradient) {
  if (element == Element::kDouble) return cross_entropy(static_cast<double*>(logits), n, target, gradient);
  return cross_entropy(static_cast<float*>(logits), n, target, gradient);
}

}  // namespace
}  // namespace liger
