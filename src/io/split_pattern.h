#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace liger::detail {

/// The regular expressions by which published byte-level tokenizers cut text into words. They are matched by code
/// written for each: no expression from a file is ever run, so none can be slow.
enum class SplitPattern { kGpt2, kLlama3, kQwen2 };

/// The pattern written exactly as `regex`, if it is one of ours.
std::optional<SplitPattern> find_split_pattern(std::string_view regex);

/// End of the word that starts at `at` < text.size(). `text` is valid UTF-8.
size_t word_end(SplitPattern pattern, std::string_view text, size_t at);

}  // namespace liger::detail
