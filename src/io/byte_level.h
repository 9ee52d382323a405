#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace liger::detail {

/// The alphabet of byte-level vocabularies: every byte has a printable character of its own. Printable bytes of
/// Latin-1 stand for themselves, the other 68 in order for U+0100 and up.
char32_t byte_to_char(uint8_t byte);
std::optional<uint8_t> char_to_byte(char32_t c);

/// Each byte as its character.
std::string bytes_to_chars(std::string_view bytes);
/// Back again; text with a character outside the alphabet stands for its own bytes.
std::string chars_to_bytes(std::string_view chars);

}  // namespace liger::detail
