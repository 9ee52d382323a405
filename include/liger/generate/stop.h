#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace liger {

/// Ends a text at the first stop string, wherever the pieces it comes in are cut: text that may turn out to be the
/// beginning of a stop string is held back until it is certain.
class StopMatcher {
 public:
  /// Throws Error(kUsage) if one is empty.
  explicit StopMatcher(std::vector<std::string> stops);
  /// The text that has become certain. Nothing more comes once stopped().
  std::string push(std::string_view text);
  /// What is still held back, at the end of the text.
  std::string flush();
  bool stopped() const { return stopped_; }

 private:
  size_t held_length() const;
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace liger
