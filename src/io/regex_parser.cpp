#include "io/regex_parser.h"

#include <optional>
#include <string>

#include "io/text.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

constexpr size_t kLongest = 2048;
constexpr int kDeepest = 64, kMostRepeats = 1000;

using Kind = RegexNode::Kind;

bool is_digit(unsigned char c) { return c >= '0' && c <= '9'; }
bool is_letter(unsigned char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_space(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

Regex::Set set_of(bool (*member)(unsigned char)) {
  Regex::Set set;
  for (int c = 0; c < 256; ++c) set[static_cast<size_t>(c)] = member(static_cast<unsigned char>(c));
  return set;
}

/// What a backslash and a letter mean in and out of a class, if they mean a set.
std::optional<Regex::Set> named_set(char letter) {
  switch (letter) {
    case 'd': return set_of(is_digit);
    case 'D': return ~set_of(is_digit);
    case 'w': return set_of(is_word);
    case 'W': return ~set_of(is_word);
    case 's': return set_of(is_space);
    case 'S': return ~set_of(is_space);
    default: return {};
  }
}

RegexNode set_node(const Regex::Set& set) { return {.kind = Kind::kSet, .set = set}; }
RegexNode assert_node(Regex::Assertion assertion) { return {.kind = Kind::kAssert, .assertion = assertion}; }

class Parser {
 public:
  explicit Parser(std::string_view pattern) : text_(pattern) {
    if (text_.size() > kLongest) error(cat("expected at most ", kLongest, " characters, got ", text_.size()));
    for (const char c : text_) {
      if (static_cast<unsigned char>(c) >= 0x80) error("expected ASCII, as the paths of modules are");
    }
  }

  RegexNode parse() {
    RegexNode all = choice(0);
    if (!done()) error("')' closes no group");
    return all;
  }

 private:
  bool done() const { return at_ == text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool take(std::string_view expected) {
    if (!text_.substr(at_).starts_with(expected)) return false;
    at_ += expected.size();
    return true;
  }
  [[noreturn]] void error(const std::string& what) const {
    fail(ErrorCode::kBadInput, "regular expression '", printable(text_, 60), "': at ", at_, ": ", what);
  }

  RegexNode choice(int depth) {
    if (depth > kDeepest) error(cat("expected at most ", kDeepest, " groups inside each other"));
    RegexNode node{.kind = Kind::kChoice};
    do node.children.push_back(sequence(depth));
    while (take("|"));
    return node;
  }

  RegexNode sequence(int depth) {
    RegexNode node;
    while (!done() && peek() != '|' && peek() != ')') node.children.push_back(repeated(depth));
    return node;
  }

  RegexNode repeated(int depth) {
    const RegexNode element = atom(depth);
    const auto bounds = quantifier();
    if (!bounds) return element;
    if (element.kind == Kind::kAssert) error("nothing to repeat: an anchor has no length");
    if (take("+")) error("possessive repeats are not supported");
    take("?");  // lazy: the same texts
    if (quantifier()) error("multiple repeat");
    return {.kind = Kind::kRepeat, .min = bounds->first, .max = bounds->second, .children = {element}};
  }

  std::optional<std::pair<int, int>> quantifier() {
    if (take("*")) return {{0, RegexNode::kUnbounded}};
    if (take("+")) return {{1, RegexNode::kUnbounded}};
    if (take("?")) return {{0, 1}};
    const size_t start = at_;
    if (!take("{")) return {};
    const std::optional<int> low = number();
    const bool range = take(",");
    const std::optional<int> high = range ? number() : low;
    if (!take("}") || (!low && !range)) {  // Python takes it literally
      at_ = start;
      return {};
    }
    if (high && low.value_or(0) > *high) error("the least number of repeats is more than the largest");
    return {{low.value_or(0), high.value_or(RegexNode::kUnbounded)}};
  }

  std::optional<int> number() {
    if (!is_digit(static_cast<unsigned char>(peek()))) return {};
    int value = 0;
    while (is_digit(static_cast<unsigned char>(peek()))) {
      value = value * 10 + (text_[at_++] - '0');
      if (value > kMostRepeats) error(cat("expected at most ", kMostRepeats, " repeats"));
    }
    return value;
  }

  RegexNode atom(int depth) {
    if (take("(")) return group(depth);
    if (take("[")) return set_node(char_class());
    if (take("\\")) return escape();
    if (take(".")) return set_node(~Regex::Set().set('\n'));
    if (take("^")) return assert_node(Regex::Assertion::kBegin);
    if (take("$")) return assert_node(Regex::Assertion::kEnd);
    const char c = peek();
    if (c == '*' || c == '+' || c == '?') error("nothing to repeat");
    ++at_;
    return set_node(Regex::Set().set(static_cast<unsigned char>(c)));
  }

  RegexNode group(int depth) {
    if (take("?")) {
      if (take("P<")) {
        while (is_word(static_cast<unsigned char>(peek()))) ++at_;
        if (!take(">")) error("expected the name of a group and '>'");
      } else if (!take(":")) {
        error("expected '(?:' or '(?P<name>'; look-around, flags and references to groups are not supported");
      }
    }
    RegexNode inner = choice(depth + 1);
    if (!take(")")) error("expected ')'");
    return inner;
  }

  RegexNode escape() {
    const char c = peek();
    if (done()) error("nothing after the backslash");
    if (c == 'A' || c == 'Z') return ++at_, assert_node(c == 'A' ? Regex::Assertion::kBegin : Regex::Assertion::kEnd);
    if (c == 'b') return ++at_, assert_node(Regex::Assertion::kWordBoundary);
    if (c == 'B') return ++at_, assert_node(Regex::Assertion::kNoWordBoundary);
    if (is_digit(static_cast<unsigned char>(c))) error("references to groups are not supported");
    return set_node(escaped_set());
  }

  Regex::Set escaped_set() {
    if (done()) error("nothing after the backslash");
    const char c = text_[at_];
    if (const auto set = named_set(c)) return ++at_, *set;
    constexpr std::string_view kLetters = "ntrfv", kMeanings = "\n\t\r\f\v";
    const size_t known = kLetters.find(c);
    const bool special = is_letter(static_cast<unsigned char>(c)) || is_digit(static_cast<unsigned char>(c));
    if (known == std::string_view::npos && special) error(cat("bad escape '\\", c, "'"));
    ++at_;
    return Regex::Set().set(static_cast<unsigned char>(known == std::string_view::npos ? c : kMeanings[known]));
  }

  Regex::Set char_class() {
    const bool negated = take("^");
    Regex::Set set;
    for (bool first = true; first || peek() != ']'; first = false) {
      if (done()) error("expected ']'");
      const Regex::Set low = class_member();
      const bool is_range = peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!is_range) {
        set |= low;
        continue;
      }
      ++at_;
      set |= range(low, class_member());
    }
    ++at_;
    return negated ? ~set : set;
  }

  Regex::Set class_member() {
    if (take("\\")) return escaped_set();
    return Regex::Set().set(static_cast<unsigned char>(text_[at_++]));
  }

  Regex::Set range(const Regex::Set& low, const Regex::Set& high) const {
    if (low.count() != 1 || high.count() != 1) error("expected a character on both sides of '-'");
    const size_t first = low._Find_first(), last = high._Find_first();
    if (first > last) error("the range of characters runs backwards");
    Regex::Set set;
    for (size_t c = first; c <= last; ++c) set.set(c);
    return set;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

bool is_word(unsigned char c) { return is_letter(c) || is_digit(c) || c == '_'; }

RegexNode parse_regex(std::string_view pattern) { return Parser(pattern).parse(); }

}  // namespace liger::detail
