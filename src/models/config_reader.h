#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "liger/error.h"
#include "liger/io/json.h"

namespace liger {

/// Typed access to the keys of a config.json written by somebody else: unknown keys are none of our business, but
/// what we read must be sound.
class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string source) : object_(object), source_(std::move(source)) {
    LIGER_CHECK(object.is_object(), source_, ": expected an object, got ", object.type_name());
  }

  bool has(const char* key) const {
    auto it = object_.find(key);
    return it != object_.end() && !it->is_null();
  }

  /// Whether it is there and null, which is not the same as absent where there is a default.
  bool is_null(const char* key) const { return object_.contains(key) && object_.at(key).is_null(); }

  [[noreturn]] void bad(const char* key, const std::string& expected) const {
    fail(ErrorCode::kBadInput, source_, ": '", key, "': expected ", expected, ", got ",
         has(key) ? object_.at(key).dump().substr(0, 80) : "nothing");
  }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    if (!has(key) || !object_.at(key).is_number_integer()) bad(key, "an integer");
    const Json& value = object_.at(key);
    const bool too_big =
        value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(std::numeric_limits<int64_t>::max());
    if (too_big || value.get<int64_t>() < low || value.get<int64_t>() > high)
      bad(key, cat("an integer from ", low, " to ", high));
    return value.get<int64_t>();
  }
  int64_t integer_or(const char* key, int64_t fallback, int64_t low, int64_t high) const {
    return has(key) ? integer(key, low, high) : fallback;
  }

  double positive(const char* key) const {
    if (!has(key) || !object_.at(key).is_number()) bad(key, "a positive number");
    const double value = object_.at(key).get<double>();
    if (!std::isfinite(value) || value <= 0) bad(key, "a positive number");
    return value;
  }
  double positive_or(const char* key, double fallback) const { return has(key) ? positive(key) : fallback; }

  bool boolean_or(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_.at(key).is_boolean()) bad(key, "true or false");
    return object_.at(key).get<bool>();
  }

  std::string text(const char* key) const {
    if (!has(key) || !object_.at(key).is_string()) bad(key, "a string");
    return object_.at(key).get<std::string>();
  }
  std::string text_or(const char* key, const std::string& fallback) const { return has(key) ? text(key) : fallback; }

  const Json& at(const char* key) const { return object_.at(key); }
  const std::string& source() const { return source_; }

 private:
  const Json& object_;
  std::string source_;
};

}  // namespace liger
