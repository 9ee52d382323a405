#include "eval/jinja_expression.h"

#include <array>
#include <charconv>
#include <initializer_list>

#include "io/utf8.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxDepth = 64;

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

ExpressionPtr make(Kind kind, std::string name, std::vector<ExpressionPtr> operands) {
  return std::make_shared<const Expression>(Expression{kind, std::move(name), {}, std::move(operands)});
}
ExpressionPtr literal(OrderedJson value) {
  return std::make_shared<const Expression>(Expression{Kind::kLiteral, "", std::move(value), {}});
}

// Recursive descent, in Jinja's order of precedence.
class Parser {
 public:
  Parser(std::string_view text, size_t at) : text_(text), at_(at) {}

  ExpressionPtr parse() {
    skip_space();
    return conditional();
  }
  size_t at() const { return at_; }

 private:
  [[noreturn]] void refuse(const std::string& expected) const {
    const std::string_view rest = text_.substr(std::min(at_, text_.size()), 20);
    fail(ErrorCode::kUsage, "column ", at_ + 1, ": expected ", expected, ", got ",
         rest.empty() ? "the end" : cat("'", rest, "'"));
  }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() && (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r')) ++at_;
  }
  // The end of a tag, "%}", "-}}", is none of ours.
  bool at_tag_end() const { return text_.substr(at_).starts_with("-}}") || text_.substr(at_).starts_with("-%}"); }
  bool take(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    skip_space();
    return true;
  }
  void need(std::string_view token) {
    if (!take(token)) refuse(cat("'", token, "'"));
  }
  bool take_word(std::string_view word) {
    if (!text_.substr(at_).starts_with(word) || is_name_part(peek(word.size()))) return false;
    return take(word);
  }
  std::string name() {
    if (!is_name_start(peek())) refuse("a name");
    const size_t begin = at_;
    while (is_name_part(peek())) ++at_;
    std::string found(text_.substr(begin, at_ - begin));
    skip_space();
    return found;
  }

  struct Deeper {
    explicit Deeper(Parser& parser) : depth(parser.depth_) {
      if (++depth > kMaxDepth) parser.refuse("less than 64 expressions inside each other");
    }
    ~Deeper() { --depth; }
    int& depth;
  };

  ExpressionPtr conditional() {
    const Deeper deeper(*this);
    ExpressionPtr value = disjunction();
    while (take_word("if")) {
      ExpressionPtr condition = disjunction();
      if (!take_word("else")) refuse("'else'");
      value = make(Kind::kConditional, "", {condition, value, conditional()});
    }
    return value;
  }
  ExpressionPtr disjunction() {
    ExpressionPtr left = conjunction();
    while (take_word("or")) left = make(Kind::kBinary, "or", {left, conjunction()});
    return left;
  }
  ExpressionPtr conjunction() {
    ExpressionPtr left = negation();
    while (take_word("and")) left = make(Kind::kBinary, "and", {left, negation()});
    return left;
  }
  ExpressionPtr negation() {
    const Deeper deeper(*this);
    if (take_word("not")) return make(Kind::kUnary, "not", {negation()});
    return comparison();
  }
  ExpressionPtr comparison() {
    ExpressionPtr left = sum();
    for (;;) {
      std::string found;
      for (const char* op : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (found.empty() && take(op)) found = op;
      }
      if (found.empty() && take_word("in")) found = "in";
      if (found.empty() && text_.substr(at_).starts_with("not ")) {
        take_word("not");
        if (!take_word("in")) refuse("'in'");
        found = "not in";
      }
      if (found.empty()) return left;
      left = make(Kind::kBinary, found, {left, sum()});
    }
  }
  ExpressionPtr operators(ExpressionPtr (Parser::*next)(), std::initializer_list<const char*> ops) {
    ExpressionPtr left = (this->*next)();
    for (bool found = true; found && !at_tag_end();) {
      found = false;
      for (const char* op : ops) {
        const bool end_of_tag = *op == '%' && peek(1) == '}';
        if (end_of_tag || !take(op)) continue;
        left = make(Kind::kBinary, op, {left, (this->*next)()});
        found = true;
        break;
      }
    }
    return left;
  }
  ExpressionPtr sum() { return operators(&Parser::joined, {"+", "-"}); }
  ExpressionPtr joined() { return operators(&Parser::product, {"~"}); }
  ExpressionPtr product() { return operators(&Parser::unary, {"*", "//", "/", "%"}); }
  ExpressionPtr unary() {
    const Deeper deeper(*this);
    if (!at_tag_end() && take("-")) return make(Kind::kUnary, "-", {unary()});
    return filtered(postfix(primary()));
  }

  ExpressionPtr postfix(ExpressionPtr value) {
    for (;;) {
      if (peek() == '.' && is_name_start(peek(1))) {
        ++at_;
        std::string member = name();
        if (take("(")) {
          value = make(Kind::kCall, std::move(member), arguments(value));
        } else {
          value = make(Kind::kAttribute, std::move(member), {value});
        }
      } else if (take("[")) {
        value = subscript(value);
      } else {
        return value;
      }
    }
  }
  ExpressionPtr subscript(const ExpressionPtr& object) {
    std::array<ExpressionPtr, 3> parts;
    size_t colons = 0;
    for (;;) {
      if (take(":")) {
        if (++colons > 2) refuse("']'");
      } else if (take("]")) {
        break;
      } else {
        if (parts[colons] != nullptr) refuse("']'");
        parts[colons] = conditional();
      }
    }
    if (colons > 0) return make(Kind::kSlice, "", {object, parts[0], parts[1], parts[2]});
    if (parts[0] == nullptr) refuse("an index");
    return make(Kind::kIndex, "", {object, parts[0]});
  }
  // After the opening parenthesis; the object comes first.
  std::vector<ExpressionPtr> arguments(const ExpressionPtr& object) {
    std::vector<ExpressionPtr> all = {object};
    while (!take(")")) {
      if (all.size() > 1) need(",");
      all.push_back(conditional());
    }
    return all;
  }
  ExpressionPtr filtered(ExpressionPtr value) {
    for (;;) {
      if (take_word("is")) {
        const bool negated = take_word("not");
        const size_t begin = at_;
        std::string test = name();
        if (test != "defined" && test != "none") {
          at_ = begin;
          refuse("one of the tests that are known, defined and none");
        }
        value = make(Kind::kTest, std::move(test), {value});
        if (negated) value = make(Kind::kUnary, "not", {value});
      } else if (take("|")) {
        const size_t begin = at_;
        std::string filter = name();
        if (!is_filter(filter)) {
          at_ = begin;
          refuse("one of the filters that are known, " + filter_names());
        }
        value = make(Kind::kFilter, std::move(filter), take("(") ? arguments(value) : std::vector{value});
      } else {
        return value;
      }
    }
  }

  ExpressionPtr primary() {
    const char c = peek();
    if (c == '\'' || c == '"') {
      std::string text = string();
      while (peek() == '\'' || peek() == '"') text += string();
      return literal(std::move(text));
    }
    if (is_digit(c)) return number();
    if (take("(")) {
      ExpressionPtr value = conditional();
      need(")");
      return value;
    }
    if (take("[")) return list();
    if (take("{")) return dict();
    const std::string found = name();
    if (found == "true" || found == "True") return literal(true);
    if (found == "false" || found == "False") return literal(false);
    if (found == "none" || found == "None") return literal(nullptr);
    return make(Kind::kName, found, {});
  }
  ExpressionPtr list() {
    std::vector<ExpressionPtr> items;
    while (!take("]")) {
      items.push_back(conditional());
      if (take("]")) break;
      need(",");
    }
    return make(Kind::kList, "", std::move(items));
  }
  ExpressionPtr dict() {
    std::vector<ExpressionPtr> items;
    while (!take("}")) {
      items.push_back(conditional());
      need(":");
      items.push_back(conditional());
      if (take("}")) break;
      need(",");
    }
    return make(Kind::kDict, "", std::move(items));
  }
  ExpressionPtr number() {
    const size_t begin = at_;
    while (is_digit(peek())) ++at_;
    const bool real = peek() == '.' && is_digit(peek(1));
    if (real) ++at_;
    while (is_digit(peek())) ++at_;
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    int64_t whole = 0;
    double value = 0;
    const auto error = real ? std::from_chars(first, last, value).ec : std::from_chars(first, last, whole).ec;
    if (error != std::errc()) {
      at_ = begin;
      refuse("a number of 64 bits");
    }
    skip_space();
    return literal(real ? OrderedJson(value) : OrderedJson(whole));
  }
  std::string string() {
    const char quote = peek();
    std::string out;
    for (++at_; peek() != quote; ++at_) {
      if (at_ >= text_.size()) refuse(cat("the closing ", quote));
      if (peek() != '\\') {
        out += peek();
      } else {
        ++at_;
        escape(out);
      }
    }
    ++at_;
    skip_space();
    return out;
  }
  void escape(std::string& out) {
    constexpr std::string_view kFrom = "ntr\\'\"abfv", kTo = "\n\t\r\\'\"\a\b\f\v";
    const char c = peek();
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      uint32_t code = 0;
      const std::string_view hex = text_.substr(at_ + 1, digits);
      const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
      const bool valid = hex.size() == digits && error == std::errc() && end == hex.data() + digits &&
                         code < 0x110000 && (code < 0xD800 || code > 0xDFFF);
      if (!valid) refuse(cat("the ", digits, " hexadecimal digits of a character"));
      detail::append_char(out, code);
      at_ += digits;
    } else if (const size_t known = kFrom.find(c); known != std::string_view::npos) {
      out += kTo[known];
    } else {
      out += '\\';
      out += c;
    }
  }

  std::string_view text_;
  size_t at_;
  int depth_ = 0;
};

}  // namespace

ExpressionPtr parse_expression(std::string_view text, size_t& at) {
  Parser parser(text, at);
  ExpressionPtr expression = parser.parse();
  at = parser.at();
  return expression;
}

}  // namespace liger::eval
