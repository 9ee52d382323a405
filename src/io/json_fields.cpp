#include "io/json_fields.h"

#include <algorithm>
#include <limits>

#include "io/text.h"
#include "liger/error.h"

namespace liger::detail {

std::string describe_type(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return "the string '" + printable(value.get_ref<const std::string&>()) + "'";
    default: return value.dump();
  }
}

void check_fields(const Json& object, const std::string& where, std::initializer_list<std::string_view> known) {
  LIGER_CHECK(object.is_object(), where, ": expected an object, got ", describe_type(object));
  for (const auto& [key, value] : object.items()) {
    LIGER_CHECK(std::find(known.begin(), known.end(), key) != known.end(), where, ": the field '", printable(key),
                "' is not supported");
  }
}

const Json* find_field(const Json& object, std::string_view key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

const Json& need_field(const Json& object, std::string_view key, const std::string& where) {
  LIGER_CHECK(object.is_object(), where, ": expected an object, got ", describe_type(object));
  const Json* value = find_field(object, key);
  LIGER_CHECK(value != nullptr, where, ": '", key, "' is missing");
  return *value;
}

bool bool_field(const Json& object, std::string_view key, const std::string& where, bool otherwise) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return otherwise;
  LIGER_CHECK(value->is_boolean(), where, ": '", key, "': expected true or false, got ", describe_type(*value));
  return value->get<bool>();
}

std::string string_field(const Json& object, std::string_view key, const std::string& where) {
  const Json& value = need_field(object, key, where);
  LIGER_CHECK(value.is_string(), where, ": '", key, "': expected a string, got ", describe_type(value));
  return value.get<std::string>();
}

std::string string_field(const Json& object, std::string_view key, const std::string& where, std::string otherwise) {
  return find_field(object, key) == nullptr ? std::move(otherwise) : string_field(object, key, where);
}

int64_t id_value(const Json& value, const std::string& where) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= uint64_t{kMax}
                                               : value.is_number_integer() && value.get<int64_t>() >= 0;
  LIGER_CHECK(fits, where, ": expected a token id from 0 to ", kMax, ", got ", describe_type(value));
  return value.get<int64_t>();
}

}  // namespace liger::detail
