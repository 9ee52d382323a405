#include "eval/row.h"

#include <algorithm>

#include "eval/python_value.h"
#include "liger/error.h"

namespace liger::eval {

const OrderedJson& field(const OrderedJson& row, const char* key) {
  const auto found = row.find(key);
  LIGER_CHECK(found != row.end(), "column '", key, "' is missing");
  return *found;
}

std::string text_field(const OrderedJson& row, const char* key) {
  const OrderedJson& value = field(row, key);
  LIGER_CHECK(value.is_string(), "column '", key, "': expected a string, got ", describe(value));
  return value.get<std::string>();
}

std::vector<std::string> text_list(const OrderedJson& row, const char* key) {
  const OrderedJson& value = field(row, key);
  const bool fits = value.is_array() && !value.empty() &&
                    std::all_of(value.begin(), value.end(), [](const auto& item) { return item.is_string(); });
  LIGER_CHECK(fits, "column '", key, "': expected a list of strings, got ", value.dump().substr(0, 80));
  return value.get<std::vector<std::string>>();
}

}  // namespace liger::eval
