#pragma once

#include <string>
#include <string_view>

namespace liger::detail {

/// Checks the compiled normalization rules of a tokenizer.model ("precompiled_charsmap": a 32-bit size, that many bytes
/// of a double-array trie, replacement texts ended by NUL). The sentencepiece library walks the trie without looking at
/// its bounds and keeps at most 32 rules that are prefixes of one another: on a file made wrong on purpose it reads
/// outside its memory. Throws Error(kBadInput); `where` names the rules.
void check_charsmap(std::string_view charsmap, const std::string& where);

}  // namespace liger::detail
