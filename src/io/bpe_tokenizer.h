#pragma once

#include <memory>
#include <unordered_map>

#include "io/added_tokens.h"
#include "io/bpe_model.h"
#include "io/normalizer.h"
#include "io/pretokenizer.h"
#include "io/token_decoder.h"
#include "io/tokenizer_config.h"
#include "liger/io/tokenizer.h"

namespace liger::detail {

/// What a tokenizer puts around every text.
struct Affixes {
  std::vector<int64_t> before, after;
};

/// A tokenizer.json whose model is BPE.
class BpeTokenizer : public Tokenizer {
 public:
  /// Throws Error(kBadInput) naming the part of `json` that is not supported or not valid.
  BpeTokenizer(const Json& json, const TokenizerConfig& config);

  std::vector<int64_t> encode(std::string_view text, Specials specials) const override;
  std::vector<int64_t> encode_with_specials(std::string_view text, Specials specials) const override;
  std::string decode(std::span<const int64_t> ids, bool keep_specials) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  std::string token(int64_t id) const override;
  std::optional<int64_t> id_of(std::string_view token) const override;
  bool is_special(int64_t id) const override;
  bool waits_for_next(int64_t id) const override;
  std::optional<int64_t> bos() const override { return bos_; }
  std::optional<int64_t> eos() const override { return eos_; }
  std::string chat_template() const override { return chat_template_; }

 private:
  struct Added {
    AddedToken token;
    std::string decoded;  ///< what the decoder gets: the normalized form of a normalized token
  };
  void read_added_tokens(const Json* list);
  void check_coverage() const;
  void read_post_processor(const Json& json, const std::string& where);
  void read_template(const Json& json, const std::string& where);
  std::vector<int64_t> template_ids(const Json& name, const Json& specials, const std::string& where) const;
  void choose_specials(const TokenizerConfig& config);
  void encode_part(std::string_view text, bool at_start, Specials specials, std::vector<int64_t>& ids) const;
  const std::string* find_piece(int64_t id) const;
  const std::string& need_piece(int64_t id) const;

  BpeModel model_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  TokenDecoder decoder_;
  std::unordered_map<int64_t, Added> added_;
  std::unordered_map<std::string, int64_t> added_ids_;
  TokenMatcher raw_tokens_, normalized_tokens_;  // looked for before and after normalizing
  Affixes affixes_;
  std::optional<int64_t> bos_, eos_;
  std::string chat_template_;
  int64_t vocab_size_ = 0;
};

}  // namespace liger::detail
