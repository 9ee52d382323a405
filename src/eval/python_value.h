#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "liger/io/json.h"

namespace liger::eval {

// Values of rows as Python has them: null is None, an object a dict, an array a list.

/// str(value) and repr(value).
std::string python_str(const OrderedJson& value);
std::string python_repr_of(const OrderedJson& value);
/// bool(value).
bool is_true(const OrderedJson& value);
/// a == b; 1, 1.0 and True are equal.
bool are_equal(const OrderedJson& a, const OrderedJson& b);
/// "a string", "a list of 3", for messages.
std::string describe(const OrderedJson& value);

/// Text without white space (str.isspace()), or without any of `characters`, at its ends.
enum class Ends { kBoth, kLeft, kRight };
std::string_view stripped(std::string_view text, Ends ends = Ends::kBoth);
std::string_view stripped(std::string_view text, std::string_view characters, Ends ends);
/// str.split(), and str.split(separator, limit) with limit -1 for none.
std::vector<std::string> split(std::string_view text);
std::vector<std::string> split(std::string_view text, std::string_view separator, int64_t limit = -1);
/// str.replace(from, to, limit).
std::string replaced(std::string_view text, std::string_view from, std::string_view to, int64_t limit = -1);

}  // namespace liger::eval
