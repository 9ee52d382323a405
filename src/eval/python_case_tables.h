#pragma once

#include <cstddef>
#include <cstdint>

namespace liger::eval {

/// Characters first, first + step, ... last, whose other case lies `distance` further.
struct CaseRun {
  uint32_t first, last;
  uint16_t step;
  int32_t distance;
};

/// A character whose other case is several; unused places are 0.
struct CaseSpecial {
  uint32_t from;
  uint32_t to[3];
};

struct CharRange {
  uint32_t first, last;
};

extern const CaseRun kLowerRuns[], kUpperRuns[], kTitleRuns[];
extern const CaseSpecial kLowerSpecials[], kUpperSpecials[], kTitleSpecials[];
extern const size_t kLowerRunCount, kUpperRunCount, kTitleRunCount;
extern const size_t kLowerSpecialCount, kUpperSpecialCount, kTitleSpecialCount;

extern const CharRange kCased[];
extern const CharRange kCaseIgnorable[];  ///< between a cased character and a final sigma
extern const size_t kCasedCount, kCaseIgnorableCount;

}  // namespace liger::eval
