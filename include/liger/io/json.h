#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace liger {

using Json = nlohmann::json;                 ///< members sorted by name
using OrderedJson = nlohmann::ordered_json;  ///< members in file order; for files that are written back

/// What an integer that fits neither int64 nor uint64 is. Hugging Face writes one for "no limit", 10^30, into
/// tokenizer_config.json.
enum class LongIntegers { kRefuse, kAsFloat };

/// Parses one strict JSON document (RFC 8259).
/// Refused, with "`source`:line:column: ...": duplicate keys, comments, NaN, a byte-order mark, text or NUL
/// after the document, invalid UTF-8, long integers unless asked for, nesting deeper than 128.
/// Throws Error(kBadInput).
Json parse_json(std::string_view text, const std::string& source, LongIntegers long_integers = LongIntegers::kRefuse);
OrderedJson parse_ordered_json(std::string_view text, const std::string& source);

/// The same for a whole file of at most `max_bytes`. Throws Error(kIo) if it cannot be read.
Json read_json(const std::filesystem::path& file, size_t max_bytes = size_t{1} << 30,
               LongIntegers long_integers = LongIntegers::kRefuse);
OrderedJson read_ordered_json(const std::filesystem::path& file, size_t max_bytes = size_t{1} << 30);

}  // namespace liger
