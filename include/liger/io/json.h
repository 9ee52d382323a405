#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace liger {

using Json = nlohmann::json;                 ///< members sorted by name
using OrderedJson = nlohmann::ordered_json;  ///< members in file order; for files that are written back

/// Parses one strict JSON document (RFC 8259).
/// Refused, with "`source`:line:column: ...": duplicate keys, comments, NaN, a byte-order mark, text or NUL
/// after the document, invalid UTF-8, integers that fit neither int64 nor uint64, nesting deeper than 128.
/// Throws Error(kBadInput).
Json parse_json(std::string_view text, const std::string& source);
OrderedJson parse_ordered_json(std::string_view text, const std::string& source);

/// The same for a whole file of at most `max_bytes`. Throws Error(kIo) if it cannot be read.
Json read_json(const std::filesystem::path& file, size_t max_bytes = size_t{1} << 30);
OrderedJson read_ordered_json(const std::filesystem::path& file, size_t max_bytes = size_t{1} << 30);

}  // namespace liger
