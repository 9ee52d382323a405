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

// The tables behind unicode_normal.h, laid out as unicode_tables.cpp says.
extern const uint32_t kCombiningClassRuns[], kCanonicals[], kCompatibles[], kCompositions[], kLowercases[];
extern const size_t kCombiningClassRunCount, kCanonicalCount, kCompatibleCount, kCompositionCount, kLowercaseCount;

}  // namespace liger::detail
