#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "liger/io/json.h"

namespace liger {

/// Reads a file of one JSON object per line (or, for a name ending in .json, one array of objects of up to 1 GiB, which
/// is held in memory). A further .gz or .zst in the name: it is unpacked while it is read.
/// Blank lines and CRLF are accepted; a byte-order mark, bad UTF-8, a line over 32 MiB, a row that is not an object,
/// and a compressed stream that is damaged, cut short or grows a thousandfold throw Error(kBadInput) "FILE:LINE: ...";
/// so does a file that is not there.
class JsonlReader {
 public:
  explicit JsonlReader(const std::filesystem::path& file);
  JsonlReader(JsonlReader&&) noexcept;
  JsonlReader& operator=(JsonlReader&&) noexcept;
  ~JsonlReader();
  std::optional<Json> next();
  std::optional<OrderedJson> next_ordered();  ///< the same with its members in file order
  int64_t line() const;                       ///< where the row last returned begins, from 1
  std::string where() const;                  ///< "FILE:LINE"

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A string field of a row. Throws Error(kBadInput) with the reader's place when it is missing or no string.
std::string string_field(const Json& row, const std::string& key, const std::string& where);

}  // namespace liger
