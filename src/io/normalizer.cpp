#include "io/normalizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "io/json_fields.h"
#include "io/text.h"
#include "io/unicode_tables.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t at; (at = text.find(from, done)) != std::string_view::npos; done = at + from.size()) {
    out.append(text.substr(done, at - done)).append(to);
  }
  return out.append(text.substr(done));
}

std::string string_pattern(const Json& pattern, const std::string& where) {
  check_fields(pattern, where, {"String", "Regex"});
  LIGER_CHECK(find_field(pattern, "Regex") == nullptr, where, ": the regular expression ",
              describe_type(pattern.at("Regex")), " is not supported");
  std::string text = string_field(pattern, "String", where);
  LIGER_CHECK(!text.empty(), where, ": the empty string is not supported");
  return text;
}

namespace {

std::optional<NormalForm> normal_form(std::string_view name) {
  if (name == "NFC") return NormalForm::kC;
  if (name == "NFD") return NormalForm::kD;
  if (name == "NFKC") return NormalForm::kKC;
  if (name == "NFKD") return NormalForm::kKD;
  return std::nullopt;
}

std::string_view stripped(std::string_view text, bool left, bool right) {
  const auto is_space = [](char32_t c) { return (char_classes(c) & kSpace) != 0; };
  size_t begin = 0, end = text.size();
  for (size_t next = 0; left && next < end && is_space(next_char(text, next));) begin = next;
  while (right && end > begin && is_space(char_before(text, end))) {
    do --end;
    while ((static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  }
  return text.substr(begin, end - begin);
}

}  // namespace

Normalizer::Normalizer(const Json* json) {
  if (json != nullptr) read(*json, "normalizer");
}

void Normalizer::read(const Json& json, const std::string& where) {
  const std::string type = string_field(json, "type", where);
  if (type == "Sequence") {
    check_fields(json, where, {"type", "normalizers"});
    const Json& list = need_field(json, "normalizers", where);
    LIGER_CHECK(list.is_array(), where, ".normalizers: expected an array, got ", describe_type(list));
    for (size_t i = 0; i < list.size(); ++i) read(list[i], cat(where, ".normalizers[", i, "]"));
  } else if (type == "Prepend") {
    check_fields(json, where, {"type", "prepend"});
    steps_.emplace_back(Prepend{string_field(json, "prepend", where)});
  } else if (type == "Replace") {
    check_fields(json, where, {"type", "pattern", "content"});
    steps_.emplace_back(Replace{string_pattern(need_field(json, "pattern", where), where + ".pattern"),
                                string_field(json, "content", where)});
  } else if (const auto form = normal_form(type)) {
    check_fields(json, where, {"type"});
    steps_.emplace_back(*form);
  } else if (type == "Lowercase") {
    check_fields(json, where, {"type"});
    steps_.emplace_back(Lowercase{});
  } else if (type == "Strip") {
    check_fields(json, where, {"type", "strip_left", "strip_right"});
    steps_.emplace_back(
        Strip{bool_field(json, "strip_left", where, true), bool_field(json, "strip_right", where, true)});
  } else {
    fail(ErrorCode::kBadInput, where, ": type '", printable(type),
         "' is not supported, only Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase and Strip");
  }
}

bool Normalizer::keeps_start() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const Step& step) {
    const auto* replace = std::get_if<Replace>(&step);
    const auto* strip = std::get_if<Strip>(&step);
    return replace != nullptr ? !replace->to.empty()
           : strip != nullptr ? !strip->left
                              : !std::holds_alternative<Prepend>(step);
  });
}

std::string_view Normalizer::apply(const Step& step, std::string_view text, std::string& buffer) {
  if (const auto* form = std::get_if<NormalForm>(&step)) return normalize(*form, text, buffer);
  if (std::holds_alternative<Lowercase>(step)) return lowercase(text, buffer);
  if (const auto* strip = std::get_if<Strip>(&step)) return stripped(text, strip->left, strip->right);
  if (const auto* replace = std::get_if<Replace>(&step)) {
    return text.find(replace->from) == std::string_view::npos ? text
                                                              : buffer = replace_all(text, replace->from, replace->to);
  }
  return text.empty() ? text : buffer.assign(std::get<Prepend>(step).text).append(text);
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  std::string other;
  for (const Step& step : steps_) {
    const std::string_view next = apply(step, text, other);  // `text` may be in `buffer`
    const bool written = next.data() == other.data();
    if (written) buffer.swap(other);
    text = written ? std::string_view(buffer) : next;
  }
  return text;
}

std::string Normalizer::apply(std::string_view text) const {
  std::string buffer;
  return std::string(apply(text, buffer));
}

}  // namespace liger::detail
