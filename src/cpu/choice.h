// The likeliest token of a row of logits, and how sure that is: the two largest in one pass over the row, what softmax
// comes to in another, nothing written.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace liger {
namespace {

// The two largest of a row, of each lane until the end.
template <typename T>
struct LargestTwo {
  explicit LargestTwo(const T* x, int64_t n) {
    const T none = -std::numeric_limits<T>::infinity();
    Vec<T> firsts = splat(none), seconds = firsts, odd = {};
    const int64_t whole = n / kWidth<T> * kWidth<T>;
    for (int64_t i = 0; i < whole; i += kWidth<T>) {
      const Vec<T> v = load(x + i);
      seconds = max<T>(seconds, min<T>(firsts, v));
      firsts = max<T>(firsts, v);
      odd = v == v ? odd : splat(T(1));  // a NaN is no maximum of anything; it must not disappear
    }
    bool has_nan = sum<T>(odd) != 0;
    first = second = none;
    for (int64_t lane = 0; lane < kWidth<T>; ++lane) take(firsts[lane]), take(seconds[lane]);
    for (int64_t i = whole; i < n; ++i) {
      has_nan = has_nan || x[i] != x[i];
      take(x[i]);
    }
    good = !has_nan && first - first == 0;
  }
  void take(T x) {
    if (x > first) {
      second = first;
      first = x;
    } else if (x > second) {
      second = x;
    }
  }
  T first, second;
  bool good;  // no NaN, and `first` is finite
};

// Where `value`, which is in the row, is first.
template <typename T>
int64_t find_first(const T* x, int64_t n, T value) {
  constexpr int64_t kBlock = 16 * kWidth<T>;
  int64_t begin = 0;
  for (; begin + kBlock <= n; begin += kBlock) {
    Vec<T> hits = {};
    for (int64_t i = begin; i < begin + kBlock; i += kWidth<T>) hits = load(x + i) == value ? splat(T(1)) : hits;
    if (sum<T>(hits) != 0) break;
  }
  while (begin < n && x[begin] != value) ++begin;
  return begin;
}

template <typename T, bool kEntropy>
void add_softmax(const T* x, int64_t n, RowChoice& choice) {
  const T largest = static_cast<T>(choice.largest);
  const int64_t whole = n / kWidth<T> * kWidth<T>;
  double total = 0, weighted = 0;             // of e^y and y e^y, y = x - largest
  constexpr int64_t kPiece = 64 * kWidth<T>;  // as many terms to a float, the rest in double
  for (int64_t begin = 0; begin < whole; begin += kPiece) {
    Vec<T> sums = {}, products = {};
    for (int64_t i = begin; i < (begin + kPiece < whole ? begin + kPiece : whole); i += kWidth<T>) {
      const Vec<T> y = load(x + i) - largest, e = exp(y);
      sums += e;
      if constexpr (kEntropy) products += e * max<T>(y, splat(T(-1000)));  // 0 times infinity is not a number
    }
    total += static_cast<double>(sum<T>(sums));
    if constexpr (kEntropy) weighted += static_cast<double>(sum<T>(products));
  }
  for (int64_t i = whole; i < n; ++i) {
    const double y = static_cast<double>(x[i] - largest), e = std::exp(y);
    total += e;
    if (e > 0) weighted += e * y;
  }
  choice.total = total;
  if constexpr (kEntropy) choice.entropy = std::log(total) - weighted / total;
}

template <typename T>
RowChoice choose(const T* x, int64_t n, ChoiceSums sums) {
  const LargestTwo<T> two(x, n);
  RowChoice out{.second = static_cast<double>(two.second)};
  if (!two.good) return out;
  out.largest = static_cast<double>(two.first);
  out.first = find_first(x, n, two.first);
  if (sums == ChoiceSums::kTotal) add_softmax<T, false>(x, n, out);
  if (sums == ChoiceSums::kTotalAndEntropy) add_softmax<T, true>(x, n, out);
  return out;
}
inline RowChoice choose_row(Element element, const void* logits, int64_t n, ChoiceSums sums) {
  if (element == Element::kDouble) return choose(static_cast<const double*>(logits), n, sums);
  return choose(static_cast<const float*>(logits), n, sums);
}

}  // namespace
}  // namespace liger
