#pragma once

#include <string_view>
#include <vector>

#include "io/regex.h"

namespace liger::detail {

/// A parsed regular expression.
struct RegexNode {
  enum class Kind { kSet, kAssert, kSequence, kChoice, kRepeat };
  static constexpr int kUnbounded = -1;

  Kind kind = Kind::kSequence;  ///< without children: the empty text
  Regex::Set set = {};
  Regex::Assertion assertion = Regex::Assertion::kBegin;
  int min = 0, max = 0;  ///< of kRepeat; max may be kUnbounded
  std::vector<RegexNode> children = {};
};

bool is_word(unsigned char c);

/// Throws Error(kBadInput) that shows the pattern and the place.
RegexNode parse_regex(std::string_view pattern);

}  // namespace liger::detail
