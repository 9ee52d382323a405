#include "io/added_tokens.h"

#include <algorithm>

#include "io/json_fields.h"
#include "io/text.h"
#include "io/unicode_tables.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

bool word_before(std::string_view text, size_t at) { return at > 0 && (char_classes(char_before(text, at)) & kWord); }

bool word_at(std::string_view text, size_t at) {
  return at < text.size() && (char_classes(next_char(text, at)) & kWord);
}

size_t skip_space_left(std::string_view text, size_t at, size_t stop) {
  while (at > stop) {
    const char32_t c = char_before(text, at);
    if (!(char_classes(c) & kSpace)) break;
    do {
      --at;
    } while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  }
  return std::max(at, stop);
}

size_t skip_space_right(std::string_view text, size_t at) {
  for (size_t next = at; next < text.size(); at = next) {
    if (!(char_classes(next_char(text, next)) & kSpace)) break;
  }
  return at;
}

}  // namespace

AddedToken read_added_token(const Json& entry, const std::string& where) {
  AddedToken token;
  token.content = string_field(entry, "content", where);
  token.single_word = bool_field(entry, "single_word", where, false);
  token.lstrip = bool_field(entry, "lstrip", where, false);
  token.rstrip = bool_field(entry, "rstrip", where, false);
  token.special = bool_field(entry, "special", where, false);
  token.normalized = bool_field(entry, "normalized", where, !token.special);
  LIGER_CHECK(!token.content.empty(), where, ": 'content' is empty");
  return token;
}

TokenMatcher::TokenMatcher(std::vector<Pattern> patterns) : patterns_(std::move(patterns)) {
  std::sort(patterns_.begin(), patterns_.end(), [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  const auto twins = std::adjacent_find(patterns_.begin(), patterns_.end(),
                                        [](const Pattern& a, const Pattern& b) { return a.text == b.text; });
  LIGER_CHECK(twins == patterns_.end(), "added tokens '", printable(twins->token.content), "' (id ", twins->token.id,
              ") and '", printable(twins[1].token.content), "' (id ", twins[1].token.id, ") match the same text");
  for (const Pattern& pattern : patterns_) first_bytes_[static_cast<uint8_t>(pattern.text[0])] = true;
}

const TokenMatcher::Pattern* TokenMatcher::longest_at(std::string_view text, size_t at) const {
  if (!first_bytes_[static_cast<uint8_t>(text[at])]) return nullptr;
  const Pattern* longest = nullptr;
  // The patterns that begin with the bytes read so far stand together, the shortest first.
  auto begin = patterns_.begin(), end = patterns_.end();
  for (size_t depth = 0; begin != end; ++depth) {
    if (begin->text.size() == depth) longest = &*begin++;
    if (at + depth == text.size()) break;
    const auto byte = static_cast<uint8_t>(text[at + depth]);
    const auto byte_of = [depth](const Pattern& pattern) { return static_cast<uint8_t>(pattern.text[depth]); };
    begin = std::partition_point(begin, end, [&](const Pattern& pattern) { return byte_of(pattern) < byte; });
    end = std::partition_point(begin, end, [&](const Pattern& pattern) { return byte_of(pattern) == byte; });
  }
  return longest;
}

std::vector<TokenMatcher::Span> TokenMatcher::split(std::string_view text, Specials specials) const {
  std::vector<Span> spans;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const Pattern* match = longest_at(text, at);
    if (match == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = match->token;
    size_t begin = at, end = at + match->text.size();
    at = end;  // also after a match that does not count, as in the reference
    if (token.special && specials == Specials::kLiteral) continue;
    if (token.single_word && (word_before(text, begin) || word_at(text, end))) continue;
    if (token.lstrip) begin = skip_space_left(text, begin, done);
    if (token.rstrip) end = skip_space_right(text, end);
    if (done < begin) spans.push_back({done, begin, std::nullopt});
    spans.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) spans.push_back({done, text.size(), std::nullopt});
  return spans;
}

}  // namespace liger::detail
