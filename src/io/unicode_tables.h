#pragma once

#include <cstddef>
#include <cstdint>

namespace liger::detail {

/// Classes of characters, as the reference tokenizers see them. A character can be in several.
enum CharClass : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kWord = 8 };

/// The classes `c` is in.
uint8_t char_classes(char32_t c);

extern const uint32_t kCharClassRuns[];
extern const size_t kCharClassRunCount;

}  // namespace liger::detail
