#include "eval/template.h"

#include <algorithm>
#include <optional>

#include "eval/python_value.h"
#include "io/white_space.h"
#include "liger/error.h"

namespace liger::eval {

struct Template::Block {
  enum class Kind { kText, kOutput, kSequence, kIf, kFor, kSet };
  Kind kind = Kind::kSequence;
  std::string text;                                      // kText; the name of kFor and kSet
  ExpressionPtr expression = nullptr;                    // kOutput, kFor, kSet
  std::vector<std::shared_ptr<const Block>> inner = {};  // kSequence; bodies of kIf and kFor
  std::vector<ExpressionPtr> conditions = {};            // of kIf, one for each body but that of "else"
};

namespace {

using Block = Template::Block;
using BlockPtr = std::shared_ptr<const Block>;
using Kind = Block::Kind;

constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr int kMaxDepth = 16;
constexpr std::string_view kSpace = " \t\n\r";

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  BlockPtr parse() {
    BlockPtr root = sequence();
    if (!word_.empty()) refuse(cat("no '", word_, "' without its beginning"));
    return root;
  }

 private:
  [[noreturn]] void refuse(const std::string& expected) const {
    fail(ErrorCode::kUsage, "column ", at_ + 1, ": expected ", expected);
  }
  void skip_space() { at_ = std::min(text_.find_first_not_of(kSpace, at_), text_.size()); }

  std::string word() {
    skip_space();
    const size_t begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '_'))
      ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }
  // "}}" or "%}", with "-" to take the white space that follows.
  void end_tag(std::string_view end) {
    skip_space();
    const bool trims = text_.substr(at_).starts_with("-");
    if (trims) ++at_;
    if (!text_.substr(at_).starts_with(end)) refuse(cat("'", end, "'"));
    at_ += end.size();
    if (trims) skip_space();
  }
  // Behind an opening brace pair.
  bool begin_tag(std::string& text_before) {
    at_ += 2;
    const bool trims = at_ < text_.size() && text_[at_] == '-';
    if (!trims) return false;
    ++at_;
    text_before.erase(text_before.find_last_not_of(kSpace) + 1);
    return true;
  }

  // Up to a tag that is not its own, whose word is left in word_.
  BlockPtr sequence() {
    if (++depth_ > kMaxDepth) refuse("less than 16 blocks inside each other");
    auto block = std::make_shared<Block>();
    word_.clear();
    while (at_ < text_.size() && word_.empty()) {
      const size_t tag = next_tag();
      std::string before(text_.substr(at_, tag - at_));
      at_ = tag;
      BlockPtr next;
      if (at_ < text_.size()) {
        const char kind = text_[at_ + 1];
        begin_tag(before);
        if (kind == '{') next = output();
        if (kind == '#') comment();
        if (kind == '%') next = statement();
      }
      if (!before.empty()) block->inner.push_back(std::make_shared<Block>(Block{Kind::kText, std::move(before)}));
      if (next != nullptr) block->inner.push_back(std::move(next));
    }
    --depth_;
    return block;
  }
  size_t next_tag() const {
    for (size_t at = text_.find('{', at_); at + 1 < text_.size(); at = text_.find('{', at + 1)) {
      if (at == std::string_view::npos) break;
      if (text_[at + 1] == '{' || text_[at + 1] == '%' || text_[at + 1] == '#') return at;
    }
    return text_.size();
  }
  void comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string_view::npos) refuse("'#}'");
    at_ = text_[end - 1] == '-' && end > at_ ? end - 1 : end;
    end_tag("#}");
  }
  BlockPtr output() {
    auto block = std::make_shared<Block>(Block{Kind::kOutput, "", parse_expression(text_, at_)});
    end_tag("}}");
    return block;
  }
  BlockPtr statement() {
    const std::string what = word();
    if (what == "if") return condition();
    if (what == "for") return loop();
    if (what == "set") return assignment();
    if (what != "elif" && what != "else" && what != "endif" && what != "endfor")
      refuse(cat("if, for or set, got '", what, "'"));
    word_ = what;
    if (what != "elif") end_tag("%}");
    return nullptr;
  }
  BlockPtr condition() {
    auto block = std::make_shared<Block>(Block{Kind::kIf, ""});
    block->conditions.push_back(parse_expression(text_, at_));
    end_tag("%}");
    block->inner.push_back(sequence());
    while (word_ == "elif") {
      block->conditions.push_back(parse_expression(text_, at_));
      end_tag("%}");
      block->inner.push_back(sequence());
    }
    if (word_ == "else") block->inner.push_back(sequence());
    return closed(block, "endif");
  }
  BlockPtr loop() {
    auto block = std::make_shared<Block>(Block{Kind::kFor, word()});
    if (block->text.empty()) refuse("a name");
    if (word() != "in") refuse("'in'");
    block->expression = parse_expression(text_, at_);
    end_tag("%}");
    block->inner.push_back(sequence());
    return closed(block, "endfor");
  }
  BlockPtr closed(const BlockPtr& block, const char* end) {
    if (word_ != end) refuse(cat("{% ", end, " %}"));
    word_.clear();
    return block;
  }
  BlockPtr assignment() {
    auto block = std::make_shared<Block>(Block{Kind::kSet, word()});
    skip_space();
    if (block->text.empty() || !text_.substr(at_).starts_with("=")) refuse("'name ='");
    ++at_;
    block->expression = parse_expression(text_, at_);
    end_tag("%}");
    return block;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::string word_;
  int depth_ = 0;
};

class Renderer {
 public:
  explicit Renderer(const OrderedJson& row) : row_(row) {}

  void render(const Block& block) {
    switch (block.kind) {
      case Kind::kText: out += block.text; break;
      case Kind::kOutput: out += python_str(value_of(*block.expression)); break;
      case Kind::kSequence:
        for (const BlockPtr& inner : block.inner) render(*inner);
        break;
      case Kind::kIf: choose(block); break;
      case Kind::kFor: repeat(block); break;
      case Kind::kSet: scope_.emplace_back(block.text, value_of(*block.expression)); break;
    }
    LIGER_CHECK(out.size() <= kMaxBytes, "a text beyond ", kMaxBytes, " bytes");
  }
  OrderedJson value_of(const Expression& expression) const { return evaluate(expression, scope_, row_); }

  std::string out;

 private:
  void choose(const Block& block) {
    for (size_t i = 0; i < block.inner.size(); ++i) {
      if (i < block.conditions.size() && !is_true(value_of(*block.conditions[i]))) continue;
      return render(*block.inner[i]);
    }
  }
  void repeat(const Block& block) {
    const OrderedJson items = value_of(*block.expression);
    LIGER_CHECK(items.is_array(), "for: expected a list, got ", describe(items));
    for (size_t i = 0; i < items.size(); ++i) {
      const size_t before = scope_.size();
      scope_.emplace_back("loop", OrderedJson{{"index", i + 1},
                                              {"index0", i},
                                              {"first", i == 0},
                                              {"last", i + 1 == items.size()},
                                              {"length", items.size()}});
      scope_.emplace_back(block.text, items[i]);
      render(*block.inner[0]);
      scope_.resize(before);
    }
  }

  const OrderedJson& row_;
  Scope scope_;
};

}  // namespace

Template::Template(std::string source) : source_(std::move(source)) {
  with_context(cat("'", source_.substr(0, 60), source_.size() > 60 ? "..." : "", "'"),
               [&] { root_ = Parser(source_).parse(); });
}

std::string Template::render(const OrderedJson& row) const {
  Renderer renderer(row);
  renderer.render(*root_);
  return std::move(renderer.out);
}

OrderedJson Template::value(const OrderedJson& row) const {
  if (root_->inner.size() == 1 && root_->inner[0]->kind == Block::Kind::kOutput) {  // no need to spell it out
    OrderedJson value = Renderer(row).value_of(*root_->inner[0]->expression);
    if (!value.is_string()) return value;
  }
  const std::string text = render(row);
  try {
    size_t at = 0;
    const ExpressionPtr literal = parse_expression(text, at);
    if (at == text.size()) return evaluate(*literal, {}, OrderedJson::object());
  } catch (const Error&) {  // said below, in words of the row
  }
  fail(ErrorCode::kBadInput, "expected a list, a number or a text in quotes, got '", text.substr(0, 80), "'");
}

}  // namespace liger::eval
