#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/unicode_normal.h"
#include "liger/io/json.h"

namespace liger::detail {

/// What a tokenizer.json does to text before anything else: a list of Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase
/// and Strip.
class Normalizer {
 public:
  Normalizer() = default;
  /// `json` is "normalizer", or null. Throws Error(kBadInput) naming a type that is not supported.
  explicit Normalizer(const Json* json);
  /// The result; `text` itself if nothing of it changes, else a copy in `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;
  std::string apply(std::string_view text) const;
  /// True if the first character of the result comes from the first of the text.
  bool keeps_start() const;

 private:
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string from, to;
  };
  struct Lowercase {};
  struct Strip {
    bool left, right;
  };
  using Step = std::variant<Prepend, Replace, NormalForm, Lowercase, Strip>;
  void read(const Json& json, const std::string& where);
  static std::string_view apply(const Step& step, std::string_view text, std::string& buffer);
  std::vector<Step> steps_;
};

/// `text` with every `from` (not empty) turned into `to`, from left to right.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);
/// {"String": "..."} of a Replace or a Split. Throws Error(kBadInput) on anything else, the empty string included.
std::string string_pattern(const Json& pattern, const std::string& where);

}  // namespace liger::detail
