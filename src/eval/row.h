#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "liger/io/json.h"

namespace liger::eval {

// Columns of a row that must be there and be right. All throw Error(kBadInput) "`where`: column ...".

const OrderedJson& field(const OrderedJson& row, const char* key, const std::string& where);
std::string text_field(const OrderedJson& row, const char* key, const std::string& where);
/// A list of strings that is not empty.
std::vector<std::string> text_list(const OrderedJson& row, const char* key, const std::string& where);
/// An integer in [0, count).
int64_t index_field(const OrderedJson& row, const char* key, size_t count, const std::string& where);

}  // namespace liger::eval
