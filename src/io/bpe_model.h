#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "io/bpe_merge.h"
#include "liger/io/json.h"

namespace liger::detail {

/// The vocabulary and merges of a byte-pair encoding: the "model" of a tokenizer.json.
class BpeModel {
 public:
  using Specials = std::unordered_set<std::string>;
  /// `specials`: pieces that text never becomes, though merges may lead to them.
  /// Throws Error(kBadInput) on anything that is not supported, or that would make some text impossible to encode.
  BpeModel(const Json& model, const Specials& specials);
  BpeModel(const BpeModel&) = delete;
  BpeModel& operator=(const BpeModel&) = delete;

  /// Appends the ids of one word of valid UTF-8.
  void encode(std::string_view word, std::vector<int64_t>& ids) const;

  std::optional<int64_t> find(std::string_view piece) const;
  const std::string* piece(int64_t id) const;  ///< null if no piece has this id
  size_t size() const { return ids_.size(); }
  int64_t id_limit() const { return static_cast<int64_t>(pieces_.size()); }  ///< largest id + 1
  /// True if every character becomes some id: by its bytes, or as the unknown token.
  bool covers_all_text() const { return byte_fallback_ || unknown_ >= 0; }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  void read_vocabulary(const Json& vocabulary);
  void read_merges(const Json& merges, const Specials& specials);
  void find_characters();
  void find_bytes();
  int32_t char_id(char32_t c) const;

  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> pieces_;  // by id; the strings live in ids_
  MergeTable merges_;
  std::vector<int32_t> basic_chars_;                   // id of each one-character piece of the basic plane, or -1
  std::unordered_map<char32_t, int32_t> other_chars_;  // the same beyond it
  std::array<int32_t, 256> bytes_{};                   // id of "<0x00>" ...
  std::unordered_set<int64_t> special_ids_;
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

}  // namespace liger::detail
