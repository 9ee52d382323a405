#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace liger::eval {

/// CPython's random.Random, the part that draws few-shot examples and resamples scores: MT19937 seeded as
/// `Random(seed)` and `sample(range(n), k)`, equal draw for draw (CPython 3.8 to 3.13).
class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed);

  /// A number in [0, n), 0 < n < 2^32, by rejection on the top bits.
  uint32_t below(uint32_t n);
  /// random(): a number in [0, 1), of 53 random bits.
  double real();
  /// `k` different indices into a population of `n`, in the order drawn. Throws Error(kUsage) if k > n.
  std::vector<int64_t> sample(int64_t n, int64_t k);

 private:
  uint32_t next();  // 32 random bits
  static constexpr int kStateSize = 624;
  std::array<uint32_t, kStateSize> state_{};
  int position_ = kStateSize;
};

}  // namespace liger::eval
