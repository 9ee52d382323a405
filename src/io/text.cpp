#include "io/text.h"

#include <algorithm>
#include <cstdint>

#include "io/utf8.h"

namespace liger::detail {
size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (!step.valid) return at;
    at += step.bytes;
  }
  return std::string_view::npos;
}

std::string printable(std::string_view text, size_t limit) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  size_t at = 0;
  while (at < text.size() && out.size() < limit) {
    const auto c = static_cast<uint8_t>(text[at]);
    const Utf8Step step = utf8_step(text.substr(at));
    const bool c1_control = step.valid && c == 0xC2 && static_cast<uint8_t>(text[at + 1]) < 0xA0;
    if (!step.valid || c < 0x20 || c == 0x7F || c1_control) {
      out += {'\\', 'x', kHex[c >> 4], kHex[c & 15]};
      ++at;
    } else {
      out.append(text.substr(at, step.bytes));
      at += step.bytes;
    }
  }
  if (at < text.size()) out += "...";
  return out;
}

Place place_of(std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const size_t newline = before.rfind('\n');
  const std::string_view line = newline == std::string_view::npos ? before : before.substr(newline + 1);
  Place place;
  place.line += static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
  place.column += static_cast<size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
  return place;
}

}  // namespace liger::detail
