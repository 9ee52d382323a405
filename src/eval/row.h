#pragma once

#include <string>
#include <vector>

#include "liger/io/json.h"

namespace liger::eval {

// Columns of a row that must be there and be right. All throw Error(kBadInput) "column ...".

const OrderedJson& field(const OrderedJson& row, const char* key);
std::string text_field(const OrderedJson& row, const char* key);
/// A list of strings that is not empty.
std::vector<std::string> text_list(const OrderedJson& row, const char* key);

}  // namespace liger::eval
