#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/json.h"
#include "liger/io/tokenizer.h"

namespace liger::detail {

/// A token that is cut out of the text before the model sees it.
struct AddedToken {
  int64_t id = 0;
  std::string content;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< and behind it
  bool normalized = false;   ///< looked for in normalized text, in its own normalized form
  bool special = false;
};

/// One entry of "added_tokens" (tokenizer.json) or "added_tokens_decoder" (tokenizer_config.json), but for its id.
AddedToken read_added_token(const Json& entry, const std::string& where);

/// Finds added tokens in text: at each place the longest, from left to right.
class TokenMatcher {
 public:
  struct Pattern {
    std::string text;  ///< not empty
    AddedToken token;
  };
  TokenMatcher() = default;
  /// Throws Error(kBadInput) naming two tokens whose patterns are equal.
  explicit TokenMatcher(std::vector<Pattern> patterns);

  struct Span {
    size_t begin, end;
    std::optional<int64_t> id;  ///< none: text between tokens
  };
  bool empty() const { return patterns_.empty(); }
  /// The longest pattern that `text` has at `at`, or null.
  const Pattern* longest_at(std::string_view text, size_t at) const;
  /// `text` in order. A token that takes white space along may overlap the next, as in the reference.
  std::vector<Span> split(std::string_view text, Specials specials) const;

 private:
  std::vector<Pattern> patterns_;  // sorted
  std::array<bool, 256> first_bytes_{};
};

}  // namespace liger::detail
