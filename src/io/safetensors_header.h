#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/safetensors.h"

namespace liger::detail {

inline constexpr uint64_t kMaxHeader = 100'000'000;  // the reference library's limit
inline constexpr size_t kMaxTensors = 1'000'000;
inline constexpr size_t kMaxRank = 8;
inline constexpr size_t kMaxName = 1024;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< by position in the file
  std::map<std::string, size_t, std::less<>> by_name;
  std::map<std::string, std::string> metadata;
};

/// Parses the JSON of a header and proves that its tensors tile the file's data, which begins at `data_start` and is
/// `data_bytes` long. Throws Error(kBadInput) "`source`: ...".
SafetensorsHeader parse_safetensors_header(std::string_view json, uint64_t data_start, uint64_t data_bytes,
                                           const std::string& source);

/// Size in bytes of a tensor, or nothing if it does not fit 63 bits.
std::optional<uint64_t> checked_bytes(std::span<const int64_t> shape, Dtype dtype);

/// What a file that is no safetensors really is, by its first bytes: "a zip archive, ...". Empty if unknown.
std::string name_foreign_format(std::string_view head);

}  // namespace liger::detail
