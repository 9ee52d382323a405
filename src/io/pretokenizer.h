#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/split_pattern.h"
#include "liger/io/json.h"

namespace liger::detail {

/// Cuts normalized text into the words that the model sees one by one: "pre_tokenizer" of a tokenizer.json.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  /// `json` may be null: then the text is one word. Throws Error(kBadInput) naming a type that is not supported.
  explicit PreTokenizer(const Json* json);

  using Sink = std::function<void(std::string_view)>;
  /// Calls `word` for each word of `text`. `at_start`: nothing of the input comes before it.
  void split(std::string_view text, bool at_start, const Sink& word) const;

  bool has_byte_level() const;  ///< words are spelled in the byte alphabet
  bool looks_at_start() const;  ///< `at_start` matters

 private:
  struct Words {
    SplitPattern pattern;
  };
  /// Cuts behind each `pattern`, or before it.
  struct Cut {
    std::string pattern;
    bool behind;
  };
  struct Metaspace {
    std::string replacement;
    enum class Prepend { kAlways, kFirst, kNever } prepend;
  };
  struct PrefixSpace {};
  struct ByteAlphabet {};
  using Step = std::variant<Words, Cut, Metaspace, PrefixSpace, ByteAlphabet>;

  void read(const Json& json, const std::string& where);
  void read_split(const Json& json, const std::string& where);
  void read_byte_level(const Json& json, const std::string& where);
  void read_metaspace(const Json& json, const std::string& where);
  void run(size_t step, std::string_view text, bool at_start, const Sink& word) const;

  std::vector<Step> steps_;
};

}  // namespace liger::detail
