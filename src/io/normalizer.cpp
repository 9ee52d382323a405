#include "io/normalizer.h"

#include <algorithm>

#include "io/json_fields.h"
#include "io/text.h"
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
  } else {
    fail(ErrorCode::kBadInput, where, ": type '", printable(type),
         "' is not supported, only Sequence, Prepend and Replace");
  }
}

bool Normalizer::keeps_start() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const auto& step) {
    const auto* replace = std::get_if<Replace>(&step);
    return replace != nullptr && !replace->to.empty();
  });
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) {
    if (const auto* replace = std::get_if<Replace>(&step)) {
      out = replace_all(out, replace->from, replace->to);
    } else if (!out.empty()) {
      out.insert(0, std::get<Prepend>(step).text);
    }
  }
  return out;
}

}  // namespace liger::detail
