#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "liger/io/json.h"

namespace liger::detail {

/// Turns the pieces of a vocabulary back into text: "decoder" of a tokenizer.json.
class TokenDecoder {
 public:
  TokenDecoder() = default;
  /// Throws Error(kBadInput) naming a type that is not supported.
  explicit TokenDecoder(const Json* json);
  std::string decode(std::vector<std::string> pieces) const;
  /// True if `piece` stands for one byte, whose text depends on the bytes before and behind it.
  bool is_byte(std::string_view piece) const;

 private:
  struct ByteLevel {};
  struct ByteFallback {};
  struct Fuse {};
  struct Replace {
    std::string from, to;
  };
  struct StripStart {
    std::string content;
    uint64_t count;
  };
  struct Metaspace {
    std::string replacement;
    bool strip_first;
  };
  using Pieces = std::vector<std::string>;
  void read(const Json& json, const std::string& where);
  void read_strip(const Json& json, const std::string& where);
  void read_metaspace(const Json& json, const std::string& where);
  static void apply(const ByteLevel&, Pieces& pieces);
  static void apply(const ByteFallback&, Pieces& pieces);
  static void apply(const Fuse&, Pieces& pieces);
  static void apply(const Replace& step, Pieces& pieces);
  static void apply(const StripStart& step, Pieces& pieces);
  static void apply(const Metaspace& step, Pieces& pieces);

  std::vector<std::variant<ByteLevel, ByteFallback, Fuse, Replace, StripStart, Metaspace>> steps_;
};

/// The byte that "<0x0A>" stands for, or -1.
int byte_of_piece(std::string_view piece);

}  // namespace liger::detail
