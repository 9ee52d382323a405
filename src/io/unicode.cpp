#include <algorithm>
#include <array>
#include <iterator>

#include "io/unicode_tables.h"

namespace liger::detail {
namespace {

uint8_t look_up(char32_t c) {
  const uint32_t* end = kCharClassRuns + kCharClassRunCount;
  return static_cast<uint8_t>(*std::prev(std::upper_bound(kCharClassRuns, end, static_cast<uint32_t>(c) << 4 | 0xF)) &
                              0xF);
}

constexpr size_t kDirect = 0x10000;  // the basic plane is looked up in one step
std::array<uint8_t, kDirect> expand() {
  std::array<uint8_t, kDirect> classes{};
  for (size_t run = 0; run < kCharClassRunCount; ++run) {
    const size_t from = kCharClassRuns[run] >> 4;
    const size_t to = run + 1 < kCharClassRunCount ? kCharClassRuns[run + 1] >> 4 : kDirect;
    for (size_t c = from; c < std::min(to, kDirect); ++c) classes[c] = static_cast<uint8_t>(kCharClassRuns[run] & 0xF);
  }
  return classes;
}

}  // namespace

uint8_t char_classes(char32_t c) {
  static const std::array<uint8_t, kDirect> direct = expand();
  return c < kDirect ? direct[c] : look_up(c);
}

}  // namespace liger::detail
