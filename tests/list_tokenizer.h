#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "liger/error.h"
#include "liger/io/tokenizer.h"

namespace liger::test {

/// A tokenizer to look through: id 0 is "<s>", id 1 is "</s>", the rest are the given pieces, matched longest first
/// from the left. As sentencepiece does, decode() drops a space at the start of the text.
class ListTokenizer : public Tokenizer {
 public:
  explicit ListTokenizer(const std::vector<std::string>& pieces, bool has_bos = true) : has_bos_(has_bos) {
    pieces_ = {"<s>", "</s>"};
    pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
  }
  /// Single letters, a space, and some longer pieces: with " b" in it, "a" + " b" is cut as "a", " b".
  static ListTokenizer letters(const std::vector<std::string>& longer = {}, bool has_bos = true) {
    std::vector<std::string> pieces;
    for (char c = ' '; c < 127; ++c) pieces.emplace_back(1, c);
    pieces.emplace_back("\n");
    pieces.insert(pieces.end(), longer.begin(), longer.end());
    return ListTokenizer(pieces, has_bos);
  }

  std::vector<int64_t> encode(std::string_view text, Specials specials) const override {
    std::vector<int64_t> ids;
    while (!text.empty()) {
      int64_t best = -1;
      for (int64_t id = specials == Specials::kParse ? 0 : 2; id < vocab_size(); ++id) {
        if (text.starts_with(pieces_[id]) && (best < 0 || pieces_[id].size() > pieces_[best].size())) best = id;
      }
      LIGER_CHECK(best >= 0, "no piece for '", text, "'");
      ids.push_back(best);
      text.remove_prefix(pieces_[best].size());
    }
    return ids;
  }
  std::vector<int64_t> encode_with_specials(std::string_view text, Specials specials) const override {
    std::vector<int64_t> ids = encode(text, specials);
    if (has_bos_) ids.insert(ids.begin(), 0);
    return ids;
  }
  std::string decode(std::span<const int64_t> ids, bool keep_specials) const override {
    std::string text;
    for (const int64_t id : ids) {
      if (keep_specials || !is_special(id)) text += pieces_.at(id);
    }
    return text.starts_with(' ') ? text.substr(1) : text;
  }
  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  std::string token(int64_t id) const override { return pieces_.at(id); }
  std::optional<int64_t> id_of(std::string_view token) const override {
    const auto found = std::find(pieces_.begin(), pieces_.end(), token);
    return found == pieces_.end() ? std::nullopt : std::optional<int64_t>(found - pieces_.begin());
  }
  bool is_special(int64_t id) const override { return id < 2; }
  std::optional<int64_t> bos() const override { return has_bos_ ? std::optional<int64_t>(0) : std::nullopt; }
  std::optional<int64_t> eos() const override { return 1; }

 private:
  std::vector<std::string> pieces_;
  bool has_bos_;
};

}  // namespace liger::test
