#pragma once

#include <cstddef>
#include <string>

#include "liger/error.h"

namespace liger {

/// What configurations and command lines call a value: a table of these, in the order in which messages list them.
template <typename Value>
struct Name {
  Value value;
  const char* name;
};

template <typename Value, size_t n>
const char* name_of(const Name<Value> (&names)[n], Value value) {
  for (const auto& entry : names)
    if (entry.value == value) return entry.name;
  fail(ErrorCode::kInternal, "a value has no name among ", names[0].name, ", ...");
}

/// Throws Error(kUsage) "KEY: expected one of ..., got '...'" for a name that is not in the table.
template <typename Value, size_t n>
Value value_of(const Name<Value> (&names)[n], const std::string& name, const char* key) {
  std::string list;
  for (const auto& entry : names) {
    if (name == entry.name) return entry.value;
    list += cat(list.empty() ? "" : ", ", entry.name);
  }
  fail(ErrorCode::kUsage, key, ": expected one of ", list, ", got '", name.substr(0, 80), "'");
}

}  // namespace liger
