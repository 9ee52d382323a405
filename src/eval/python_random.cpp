#include "eval/python_random.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "liger/error.h"

namespace liger::eval {
namespace {

constexpr int kShift = 397;

// CPython copies the population while that is smaller than a set of the sample would be: 21 entries, plus
// 4^ceil(log4(3 k)) once the sample has more than five.
int64_t copy_limit(int64_t k) {
  if (k <= 5) return 21;
  int64_t table = 1;
  while (table < 3 * k) table *= 4;
  return 21 + table;
}

}  // namespace

PythonRandom::PythonRandom(uint32_t seed) {
  // init_genrand(19650218), then init_by_array({seed}): CPython seeds by array even for a small integer.
  state_[0] = 19650218u;
  for (int i = 1; i < kStateSize; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<uint32_t>(i);
  }
  int i = 1;
  const auto advance = [&] {
    if (++i == kStateSize) {
      state_[0] = state_[kStateSize - 1];
      i = 1;
    }
  };
  for (int k = 0; k < kStateSize; ++k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + seed;
    advance();
  }
  for (int k = 0; k < kStateSize - 1; ++k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) - static_cast<uint32_t>(i);
    advance();
  }
  state_[0] = 0x80000000u;
}

uint32_t PythonRandom::next() {
  if (position_ == kStateSize) {
    for (int i = 0; i < kStateSize; ++i) {
      const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kStateSize] & 0x7fffffffu);
      state_[i] = state_[(i + kShift) % kStateSize] ^ (y >> 1) ^ ((y & 1u) != 0 ? 0x9908b0dfu : 0u);
    }
    position_ = 0;
  }
  uint32_t y = state_[position_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

uint32_t PythonRandom::below(uint32_t n) {
  const int bits = std::bit_width(n);
  uint32_t drawn = next() >> (32 - bits);
  while (drawn >= n) drawn = next() >> (32 - bits);
  return drawn;
}

double PythonRandom::real() {
  const uint32_t high = next() >> 5, low = next() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

std::vector<int64_t> PythonRandom::sample(int64_t n, int64_t k) {
  LIGER_CHECK_USAGE(k >= 0 && k <= n, "cannot draw ", k, " of ", n, " rows");
  LIGER_CHECK_USAGE(n <= std::numeric_limits<uint32_t>::max(), "cannot draw from more than 2^32 - 1 rows, got ", n);
  std::vector<int64_t> drawn(static_cast<size_t>(k));
  if (n <= copy_limit(k)) {
    std::vector<int64_t> pool(static_cast<size_t>(n));
    std::iota(pool.begin(), pool.end(), 0);
    for (int64_t i = 0; i < k; ++i) {
      const uint32_t j = below(static_cast<uint32_t>(n - i));
      drawn[i] = pool[j];
      pool[j] = pool[n - i - 1];
    }
    return drawn;
  }
  for (int64_t i = 0; i < k; ++i) {
    int64_t j = 0;
    do {
      j = below(static_cast<uint32_t>(n));
    } while (std::find(drawn.begin(), drawn.begin() + i, j) != drawn.begin() + i);
    drawn[i] = j;
  }
  return drawn;
}

}  // namespace liger::eval
