#include "io/byte_level.h"

#include <array>

#include "io/utf8.h"

namespace liger::detail {
namespace {

constexpr size_t kCharLimit = 0x144;  // U+0143 is the last one

struct Alphabet {
  std::array<char32_t, 256> chars{};
  std::array<int16_t, kCharLimit> bytes{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
    const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
    alphabet.chars[static_cast<size_t>(byte)] = c;
    alphabet.bytes[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_to_char(uint8_t byte) { return kAlphabet.chars[byte]; }

std::optional<uint8_t> char_to_byte(char32_t c) {
  if (c >= kCharLimit || kAlphabet.bytes[c] < 0) return std::nullopt;
  return static_cast<uint8_t>(kAlphabet.bytes[c]);
}

std::string bytes_to_chars(std::string_view bytes) {
  std::string chars;
  chars.reserve(bytes.size() * 2);
  for (const char byte : bytes) append_char(chars, byte_to_char(static_cast<uint8_t>(byte)));
  return chars;
}

std::string chars_to_bytes(std::string_view chars) {
  std::string bytes;
  for (size_t at = 0; at < chars.size();) {
    const auto byte = char_to_byte(next_char(chars, at));
    if (!byte) return std::string(chars);
    bytes += static_cast<char>(*byte);
  }
  return bytes;
}

}  // namespace liger::detail
