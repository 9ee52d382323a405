#include "eval/row.h"

#include <algorithm>

#include "liger/error.h"

namespace liger::eval {

const OrderedJson& field(const OrderedJson& row, const char* key, const std::string& where) {
  const auto found = row.find(key);
  LIGER_CHECK(found != row.end(), where, ": column '", key, "' is missing");
  return *found;
}

std::string text_field(const OrderedJson& row, const char* key, const std::string& where) {
  const OrderedJson& value = field(row, key, where);
  LIGER_CHECK(value.is_string(), where, ": column '", key, "': expected a string, got ", value.type_name());
  return value.get<std::string>();
}

std::vector<std::string> text_list(const OrderedJson& row, const char* key, const std::string& where) {
  const OrderedJson& value = field(row, key, where);
  const bool fits =
      value.is_array() && std::all_of(value.begin(), value.end(), [](const auto& v) { return v.is_string(); });
  LIGER_CHECK(fits, where, ": column '", key, "': expected a list of strings, got ",
              value.is_array() ? "other items in it" : value.type_name());
  LIGER_CHECK(!value.empty(), where, ": column '", key, "': no choices");
  return value.get<std::vector<std::string>>();
}

int64_t index_field(const OrderedJson& row, const char* key, size_t count, const std::string& where) {
  const OrderedJson& value = field(row, key, where);
  LIGER_CHECK(value.is_number_integer(), where, ": column '", key, "': expected an integer, got ", value.type_name());
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() < count
                                               : value.get<int64_t>() >= 0 && value.get<uint64_t>() < count;
  LIGER_CHECK(fits, where, ": column '", key, "': expected the index of a choice, 0 to ", count - 1, ", got ",
              value.dump());
  return value.get<int64_t>();
}

}  // namespace liger::eval
