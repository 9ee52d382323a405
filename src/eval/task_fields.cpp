#include "eval/task_fields.h"

#include <algorithm>
#include <cctype>

#include "eval/python_value.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

constexpr std::string_view kFunctionTag = "!function ";

// A definition that is but a name means a column; lm-evaluation-harness would show the name itself where there is none.
bool is_name(std::string_view text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) == 0 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
}

OrderedJson ordered(const Json& value) {
  if (value.is_array()) {
    OrderedJson out = OrderedJson::array();
    for (const Json& item : value) out.push_back(ordered(item));
    return out;
  }
  return OrderedJson(value);
}

}  // namespace

TaskField::TaskField(const Json& definition) {
  if (definition.is_null()) return;
  if (!definition.is_string()) {
    what_ = ordered(definition);
    return;
  }
  const std::string text = definition.get<std::string>();
  if (text.starts_with(kFunctionTag)) {
    what_ = find_field_function(text.substr(kFunctionTag.size()));
  } else {
    what_ = Template(text);
  }
}

OrderedJson TaskField::of(const OrderedJson& row) const {
  if (const auto* value = std::get_if<OrderedJson>(&what_)) return *value;
  if (const auto* function = std::get_if<Function>(&what_)) return (*function)(row);
  const Template& text = std::get<Template>(what_);
  const auto column = row.find(text.source());
  if (column != row.end()) return *column;
  LIGER_CHECK(!is_name(text.source()), "column '", text.source(), "' is missing");
  return text.render(row);
}

bool TaskField::is_rendered(const OrderedJson& row) const {
  const auto* text = std::get_if<Template>(&what_);
  return text != nullptr && !row.contains(text->source());
}

OrderedJson TaskField::literal_of(const OrderedJson& row) const {
  return is_rendered(row) ? std::get<Template>(what_).value(row) : of(row);
}

}  // namespace liger::eval
