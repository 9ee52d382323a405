#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "liger/io/json.h"

// Typed access to the members of a JSON object that a stranger wrote. `where` names the object in messages.

namespace liger::detail {

/// Throws Error(kBadInput) if `object` is not one, or has a member that is not in `known`: a field we do not know may
/// change what the rest means.
void check_fields(const Json& object, const std::string& where, std::initializer_list<std::string_view> known);

/// The member, or null if there is none or it is null.
const Json* find_field(const Json& object, std::string_view key);
/// The member. Throws Error(kBadInput) if it is missing or null.
const Json& need_field(const Json& object, std::string_view key, const std::string& where);

// The member with its type checked. Missing or null gives `otherwise`.
bool bool_field(const Json& object, std::string_view key, const std::string& where, bool otherwise);
std::string string_field(const Json& object, std::string_view key, const std::string& where, std::string otherwise);
/// Throws Error(kBadInput) if it is missing.
std::string string_field(const Json& object, std::string_view key, const std::string& where);

/// A token id: an integer from 0 to 2^31 - 1.
int64_t id_value(const Json& value, const std::string& where);
/// "a string", "an object" ...
std::string describe_type(const Json& value);

}  // namespace liger::detail
