#pragma once

#include <bitset>
#include <cstddef>
#include <string_view>
#include <vector>

namespace liger::detail {

/// A regular expression from a file that a stranger may have written, in the syntax of Python's `re`, for ASCII text
/// such as the paths of modules. It is run as an automaton (Thompson 1968) that is in all its states at once: a match
/// takes at most states x characters steps: no expression is catastrophic.
/// Read are literals, ., classes, \d \w \s and their negations, groups, |, * + ? {m,n} and their lazy forms (which
/// accept the same texts), ^ $ \A \Z \b \B. What needs more than an automaton is refused: back references, look-around,
/// possessive and atomic groups; so are inline flags.
class Regex {
 public:
  /// Throws Error(kBadInput) "regular expression 'a(b': at 1: expected ...", also for one of more than 4096 states,
  /// 2048 characters or 64 groups inside each other.
  explicit Regex(std::string_view pattern);
  /// Whether the whole text matches, as re.fullmatch.
  bool matches(std::string_view text) const;

  using Set = std::bitset<256>;
  enum class Assertion { kBegin, kEnd, kWordBoundary, kNoWordBoundary };
  struct Instruction {
    enum class Kind { kSet, kAssert, kSplit, kJump, kMatch };
    Kind kind = Kind::kMatch;
    Set set = {};
    Assertion assertion = Assertion::kBegin;
    size_t first = 0, second = 0;  ///< where kJump and kSplit go
  };

 private:
  std::vector<Instruction> program_;
};

}  // namespace liger::detail
