#include "io/split_pattern.h"

#include <array>
#include <utility>

#include "io/unicode_tables.h"
#include "io/utf8.h"

namespace liger::detail {
namespace {

constexpr std::string_view kGpt2Regex = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool is_newline(char c) { return c == '\n' || c == '\r'; }

/// One place in the text and what can be read from there.
class Reader {
 public:
  Reader(std::string_view text, size_t at) : text_(text), at_(at) {}
  size_t at() const { return at_; }
  bool done() const { return at_ == text_.size(); }
  char byte() const { return done() ? '\0' : text_[at_]; }
  char32_t peek() const {
    size_t at = at_;
    return next_char(text_, at);
  }
  uint8_t classes() const { return char_classes(peek()); }
  bool is(uint8_t wanted) const { return !done() && (classes() & wanted); }
  bool is_other() const { return !done() && !(classes() & (kLetter | kNumber | kSpace)); }
  void skip() { at_ += utf8_length(text_[at_]); }
  Reader after() const {
    Reader next = *this;
    next.skip();
    return next;
  }
  size_t end_of(uint8_t wanted) const {
    Reader here = *this;
    while (here.is(wanted)) here.skip();
    return here.at();
  }

 private:
  std::string_view text_;
  size_t at_;
};

/// 's 't 're 've 'm 'll 'd: its end, or 0. Folding case also lets U+017F stand for s.
size_t contraction_end(Reader here, bool fold) {
  if (here.byte() != '\'') return 0;
  here.skip();
  const auto letter = [&]() -> char {
    if (here.done()) return '\0';
    char32_t c = here.peek();
    if (fold && c == 0x17F) c = 's';
    if (fold && c >= 'A' && c <= 'Z') c += 'a' - 'A';
    return c < 0x80 ? static_cast<char>(c) : '\0';
  };
  const char first = letter();
  if (first == '\0') return 0;
  here.skip();
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return here.at();
  const char second = letter();
  if (((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l')) {
    here.skip();
    return here.at();
  }
  return 0;
}

/// Behind [^\s\p{L}\p{N}]+
Reader after_other(Reader here) {
  while (here.is_other()) here.skip();
  return here;
}

/// \s+(?!\S)|\s+ : the whole run at the end of the text, else all but its last character, else that one.
size_t space_end(Reader here) {
  const size_t start = here.at();
  size_t last = start;
  while (here.is(kSpace)) {
    last = here.at();
    here.skip();
  }
  return here.done() || last == start ? here.at() : last;
}

size_t gpt2_end(Reader here) {
  if (const size_t end = contraction_end(here, false)) return end;
  const Reader word = here.byte() == ' ' ? here.after() : here;
  if (word.is(kLetter)) return word.end_of(kLetter);
  if (word.is(kNumber)) return word.end_of(kNumber);
  if (word.is_other()) return after_other(word).at();
  return space_end(here);
}

/// \s*[\r\n]+ : up to the last line end of the run of white space, or 0.
size_t newlines_end(Reader here) {
  size_t end = 0;
  while (here.is(kSpace)) {
    const bool newline = is_newline(here.byte());
    here.skip();
    if (newline) end = here.at();
  }
  return end;
}

size_t llama3_end(Reader here, int digits) {
  if (const size_t end = contraction_end(here, true)) return end;
  if (here.is(kLetter)) return here.end_of(kLetter);
  if (here.is(kNumber)) {
    while (digits-- > 0 && here.is(kNumber)) here.skip();
    return here.at();
  }
  if (!is_newline(here.byte()) && here.after().is(kLetter)) return here.after().end_of(kLetter);
  const Reader word = here.byte() == ' ' ? here.after() : here;
  if (word.is_other()) {
    Reader rest = after_other(word);
    while (is_newline(rest.byte())) rest.skip();
    return rest.at();
  }
  if (const size_t end = newlines_end(here)) return end;
  return space_end(here);
}

}  // namespace

std::optional<SplitPattern> find_split_pattern(std::string_view regex) {
  if (regex == kGpt2Regex) return SplitPattern::kGpt2;
  if (regex == kLlama3Regex) return SplitPattern::kLlama3;
  if (regex == kQwen2Regex) return SplitPattern::kQwen2;
  return std::nullopt;
}

size_t word_end(SplitPattern pattern, std::string_view text, size_t at) {
  const Reader here(text, at);
  if (pattern == SplitPattern::kGpt2) return gpt2_end(here);
  return llama3_end(here, pattern == SplitPattern::kLlama3 ? 3 : 1);
}

}  // namespace liger::detail
