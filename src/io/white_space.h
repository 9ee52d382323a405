#pragma once

#include <string_view>

#include "io/utf8.h"

namespace liger::detail {

/// What str.isspace() calls white space in Python, and so what chat templates and lm-eval strip.
inline bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// Valid UTF-8 without the white space at its ends.
inline std::string_view stripped(std::string_view text) {
  size_t begin = 0, end = text.size();
  for (size_t next = 0; next < end && is_white_space(next_char(text, next));) begin = next;
  while (end > begin && is_white_space(char_before(text, end))) {
    do --end;
    while ((static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);  // to where that character starts
  }
  return text.substr(begin, end - begin);
}

}  // namespace liger::detail
