#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "liger/io/json.h"

namespace liger::detail {

/// What a tokenizer.json does to text before anything else: a list of Prepend and Replace.
class Normalizer {
 public:
  Normalizer() = default;
  /// `json` is "normalizer", or null. Throws Error(kBadInput) naming a type that is not supported.
  explicit Normalizer(const Json* json);
  std::string apply(std::string_view text) const;
  bool changes_nothing() const { return steps_.empty(); }
  /// True if the first character of the result comes from the first of the text.
  bool keeps_start() const;

 private:
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string from, to;
  };
  void read(const Json& json, const std::string& where);
  std::vector<std::variant<Prepend, Replace>> steps_;
};

/// `text` with every `from` (not empty) turned into `to`, from left to right.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);
/// {"String": "..."} of a Replace or a Split. Throws Error(kBadInput) on anything else, the empty string included.
std::string string_pattern(const Json& pattern, const std::string& where);

}  // namespace liger::detail
