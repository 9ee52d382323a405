#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace liger::detail {

/// Offset of the first byte that is not part of valid UTF-8 (RFC 3629: no overlong form, no surrogate, nothing above
/// U+10FFFF), or npos.
size_t find_invalid_utf8(std::string_view text);

/// Text from a file, made fit for a message: control characters and invalid bytes become \xNN, so that a hostile name
/// cannot drive the terminal; longer than `limit` bytes is cut and marked "...".
std::string printable(std::string_view text, size_t limit = 80);

/// Line and column of a byte, both from 1; columns count code points.
struct Place {
  size_t line = 1;
  size_t column = 1;
};
Place place_of(std::string_view text, size_t offset);

inline bool has_utf8_bom(std::string_view text) { return text.starts_with("\xEF\xBB\xBF"); }

}  // namespace liger::detail
