#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <istream>
#include <optional>
#include <streambuf>

#include "io/settings_node.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/yaml.h"

// yaml-cpp made strict. Alone it keeps the first of two equal keys, follows aliases, stops at a NUL and accepts bad
// UTF-8; here every one of these is refused with its place.

namespace liger::detail {
namespace {

constexpr size_t kMaxDepth = 64;

[[noreturn]] void fail_at(const SettingsSource& source, size_t offset, const std::string& what) {
  fail(ErrorCode::kUsage, place_in(source, offset), ": ", what);
}

bool all_of_set(std::string_view text, std::string_view set) {
  return !text.empty() && text.find_first_not_of(set) == std::string_view::npos;
}

/// Numbers and booleans of the YAML core schema.
class PlainScalar {
 public:
  PlainScalar(std::string_view text, const SettingsSource& source, size_t offset)
      : text_(text), source_(source), offset_(offset) {}

  Json resolve() const {
    if (text_ == "true" || text_ == "True" || text_ == "TRUE") return true;
    if (text_ == "false" || text_ == "False" || text_ == "FALSE") return false;
    const bool negative = text_.starts_with('-');
    const std::string_view body = text_.substr(negative || text_.starts_with('+') ? 1 : 0);
    if (all_of_set(body, "0123456789")) return integer(body, negative);
    if (body == text_ && text_.starts_with("0x") && all_of_set(text_.substr(2), "0123456789abcdefABCDEF")) {
      return radix(text_.substr(2), 16);
    }
    if (body == text_ && text_.starts_with("0o") && all_of_set(text_.substr(2), "01234567")) {
      return radix(text_.substr(2), 8);
    }
    if (is_special(body)) refuse("numbers must be finite");
    if (is_float(body)) return real(body, negative);
    return std::string(text_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail_at(source_, offset_, "'" + printable(text_, 40) + "': " + why);
  }
  Json integer(std::string_view digits, bool negative) const {
    if (digits.size() > 1 && digits[0] == '0') {
      refuse("a leading zero: some read it as octal; drop the zero, or quote it if it is text");
    }
    if (negative) {
      int64_t value = 0;
      const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
      if (error != std::errc()) refuse("does not fit 64 bits");
      return value;
    }
    return radix(digits, 10);
  }
  Json radix(std::string_view digits, int base) const {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (error != std::errc()) refuse("does not fit 64 bits");
    return value;
  }
  Json real(std::string_view body, bool negative) const {
    double value = 0;
    const auto [end, error] = std::from_chars(body.data(), body.data() + body.size(), value);
    if (error != std::errc() || end != body.data() + body.size()) refuse("is beyond the range of a double");
    return negative ? -value : value;
  }
  static bool is_special(std::string_view body) {
    return body == ".inf" || body == ".Inf" || body == ".INF" || body == ".nan" || body == ".NaN" || body == ".NAN";
  }
  /// ( \.[0-9]+ | [0-9]+ (\.[0-9]*)? ) ( [eE][-+]?[0-9]+ )?
  static bool is_float(std::string_view text) {
    const auto digits = [&] {
      const size_t count = std::min(text.find_first_not_of("0123456789"), text.size());
      text.remove_prefix(count);
      return count;
    };
    const size_t whole = digits();
    size_t fraction = 0;
    if (text.starts_with('.')) {
      text.remove_prefix(1);
      fraction = digits();
    }
    if (whole + fraction == 0) return false;
    if (text.empty()) return true;
    if (text[0] != 'e' && text[0] != 'E') return false;
    text.remove_prefix(1);
    if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
    return digits() > 0 && text.empty();
  }

  std::string_view text_;
  const SettingsSource& source_;
  size_t offset_;
};

class Builder : public YAML::EventHandler {
 public:
  Builder(std::shared_ptr<const SettingsSource> source, std::string_view text, FunctionTags functions)
      : source_(std::move(source)), text_(text), functions_(functions) {}
  SettingsNode::Ptr take() { return root_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (std::exchange(started_, true)) refuse(mark, "a second document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check(mark, "?", anchor);
    if (wants_key()) refuse(mark, "expected a key, got nothing");
    // yaml-cpp takes a line without a colon for a key whose value is null, and reports the key's place.
    if (key_ && flow_depth_ == 0 && offset(mark) == key_offset_)
      refuse(mark, "expected ':' after '" + printable(*key_) + "'");
    put(mark, SettingsNode::Kind::kScalar);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse(mark, "aliases are not allowed"); }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse(mark, "anchors are not allowed"); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    if (functions_ == FunctionTags::kAllowed && tag == "!function" && !wants_key()) {
      check(mark, "", anchor);
      put(mark, SettingsNode::Kind::kScalar).scalar = cat(tag, " ", value);
      return;
    }
    check(mark, tag, anchor);
    if (tag == "!") check_closed(mark);
    if (wants_key()) return set_key(mark, tag, value);
    check_indent(mark);
    SettingsNode& node = put(mark, SettingsNode::Kind::kScalar);
    node.scalar = tag == "?" ? PlainScalar(value, *source_, node.offset).resolve() : Json(value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value style) override {
    open(mark, tag, anchor, SettingsNode::Kind::kList, style);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    open(mark, tag, anchor, SettingsNode::Kind::kMap, style);
  }
  void OnMapEnd() override { close(); }

 private:
  [[noreturn]] void refuse(const YAML::Mark& mark, const std::string& what) const {
    fail_at(*source_, offset(mark), what);
  }
  size_t offset(const YAML::Mark& mark) const {
    return std::min(text_.size(), static_cast<size_t>(std::max(mark.pos, 0)));
  }
  bool wants_key() const {
    return !open_.empty() && open_.back()->kind == SettingsNode::Kind::kMap && !key_.has_value();
  }
  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) const {
    if (anchor != 0) refuse(mark, "anchors are not allowed");
    const size_t at = offset(mark);
    // yaml-cpp reports a quoted text and an explicit "!" alike.
    const bool bare_tag = tag == "!" && at < text_.size() && text_[at] == '!';
    if (bare_tag || (tag != "?" && tag != "!" && !tag.empty())) refuse(mark, "tags are not allowed");
  }
  /// yaml-cpp lets the end of the file close a quoted text.
  void check_closed(const YAML::Mark& mark) const {
    const size_t begin = offset(mark);
    const char quote = begin < text_.size() ? text_[begin] : '\0';
    if (quote != '"' && quote != '\'') return;
    for (size_t at = begin + 1; at < text_.size(); ++at) {
      const bool escape = quote == '"' && text_[at] == '\\';
      const bool pair = quote == '\'' && text_.substr(at, 2) == "''";
      if (escape || pair) {
        ++at;
      } else if (text_[at] == quote) {
        return;
      }
    }
    refuse(mark, "a quoted text without its closing quote");
  }
  void set_key(const YAML::Mark& mark, const std::string& tag, const std::string& value) {
    if (tag == "?" && value == "<<") refuse(mark, "merge keys are not allowed");
    if (const SettingsNode::Member* first = open_.back()->find(value)) {
      refuse(mark, "duplicate key '" + printable(value) + "', first at " + place_in(*source_, first->offset));
    }
    key_ = value;
    key_mark_ = mark;
    key_offset_ = offset(mark);
  }
  SettingsNode& put(const YAML::Mark& mark, SettingsNode::Kind kind) {
    const auto node = std::make_shared<SettingsNode>(kind, source_, offset(mark));
    if (open_.empty()) {
      root_ = node;
    } else if (open_.back()->kind == SettingsNode::Kind::kList) {
      open_.back()->elements.push_back(node);
    } else {
      open_.back()->set(std::move(*key_), node, source_, key_offset_);
      key_.reset();
    }
    return *node;
  }
  /// A value on a line of its own stands further right than its key; yaml-cpp does not insist.
  void check_indent(const YAML::Mark& mark) const {
    const bool in_block = key_.has_value() && flow_depth_ == 0;
    if (in_block && mark.line > key_mark_.line && mark.column <= key_mark_.column) {
      refuse(mark, "expected the value of '" + printable(*key_) + "' to be indented");
    }
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, SettingsNode::Kind kind,
            YAML::EmitterStyle::value style) {
    check(mark, tag, anchor);
    if (wants_key()) refuse(mark, "expected a plain key, got a list or a mapping");
    if (open_.size() == kMaxDepth) refuse(mark, "nesting deeper than 64");
    const bool flow = style == YAML::EmitterStyle::Flow;
    if (flow) check_indent(mark);
    flow_depth_ += flow || flow_depth_ > 0 ? 1 : 0;
    open_.push_back(&put(mark, kind));
  }
  void close() {
    open_.pop_back();
    flow_depth_ -= flow_depth_ > 0 ? 1 : 0;
  }

  std::shared_ptr<const SettingsSource> source_;
  std::string_view text_;
  FunctionTags functions_;
  SettingsNode::Ptr root_;
  std::vector<SettingsNode*> open_;
  std::optional<std::string> key_;
  YAML::Mark key_mark_;
  size_t key_offset_ = 0;
  size_t flow_depth_ = 0;
  bool started_ = false;
};

void check_bytes(const SettingsSource& source, std::string_view text) {
  if (has_utf8_bom(text)) fail_at(source, 0, "starts with a byte-order mark; save it as plain UTF-8");
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail_at(source, bad, "not valid UTF-8");
  }
  for (size_t at = text.find('\r'); at != std::string_view::npos; at = text.find('\r', at + 1)) {
    if (text.substr(at, 2) != "\r\n") fail_at(source, at, "a carriage return that ends no line");
  }
  const auto control = [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\r') || c == 0x7F;
  };
  if (const auto at = std::find_if(text.begin(), text.end(), control); at != text.end()) {
    fail_at(source, static_cast<size_t>(at - text.begin()),
            *at == '\t' ? "a tab; use spaces (inside double quotes: \\t)"
                        : "control character " + printable(std::string_view(&*at, 1)));
  }
  // yaml-cpp would end the document there and drop the rest of the file.
  for (size_t at = text.find('%'); at != std::string_view::npos; at = text.find('%', at + 1)) {
    if (at == 0 || text[at - 1] == '\n') fail_at(source, at, "a line that starts with '%'; directives are not allowed");
  }
}

/// Reads the text where it lies.
struct ViewBuffer : std::streambuf {
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // streambuf asks for it and does not write
    setg(begin, begin, begin + text.size());
  }
};

}  // namespace

SettingsNode::Ptr parse_yaml(std::shared_ptr<const SettingsSource> source, std::string_view text,
                             FunctionTags functions) {
  check_bytes(*source, text);
  Builder builder(source, text, functions);
  ViewBuffer buffer(text);
  std::istream in(&buffer);
  try {
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    const size_t at = error.mark.is_null() ? text.size() : static_cast<size_t>(error.mark.pos);
    fail_at(*source, std::min(at, text.size()), printable(error.msg, 200));
  }
  SettingsNode::Ptr root = builder.take();
  return root ? root : std::make_shared<SettingsNode>(SettingsNode::Kind::kScalar, source, 0);
}

}  // namespace liger::detail

namespace liger {

Json read_yaml(std::string_view text, const std::string& source) {
  const auto origin = std::make_shared<const detail::SettingsSource>(detail::SettingsSource{source, std::string(text)});
  return detail::to_json(*detail::parse_yaml(origin, origin->text, detail::FunctionTags::kAllowed));
}

}  // namespace liger
