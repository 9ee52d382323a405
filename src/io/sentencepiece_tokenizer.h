#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "io/added_tokens.h"
#include "io/piece_bpe.h"
#include "io/sentencepiece_model.h"
#include "io/tokenizer_config.h"
#include "liger/io/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace liger::detail {

/// A tokenizer.model. PieceBpe or the sentencepiece library finds the ids of text; special tokens, which it does not
/// look for, are cut out before it, and each piece of text between two of them is encoded by itself.
class SentencePieceTokenizer : public Tokenizer {
 public:
  /// Throws Error(kBadInput) naming the part of the file's `bytes` that is not supported or not valid.
  SentencePieceTokenizer(const std::string& bytes, const TokenizerConfig& config);
  ~SentencePieceTokenizer() override;

  std::vector<int64_t> encode(std::string_view text, Specials specials) const override;
  std::vector<int64_t> encode_with_specials(std::string_view text, Specials specials) const override;
  std::string decode(std::span<const int64_t> ids, bool keep_specials) const override;
  int64_t vocab_size() const override { return static_cast<int64_t>(pieces_.size()); }
  std::string token(int64_t id) const override { return need_piece(id).text; }
  std::optional<int64_t> id_of(std::string_view token) const override;
  bool is_special(int64_t id) const override { return need_piece(id).special; }
  std::optional<int64_t> bos() const override { return bos_; }
  std::optional<int64_t> eos() const override { return eos_; }
  std::string chat_template() const override { return chat_template_; }

 private:
  struct Piece : SentencePieceModel::Piece {
    bool special = false;
    bool known = true;  ///< false: no token has this id
  };
  using Processor = sentencepiece::SentencePieceProcessor;
  void add_tokens(const std::vector<AddedToken>& tokens);
  void choose_specials(const TokenizerConfig& config);
  const Piece& need_piece(int64_t id) const;
  void encode_text(std::string_view text, Specials specials, std::vector<int64_t>& ids) const;

  SentencePieceModel model_;  // its pieces moved to pieces_
  std::vector<Piece> pieces_;
  std::unordered_map<std::string_view, int64_t> ids_;  // the texts live in pieces_
  std::optional<PieceBpe> bpe_;                        // finds the ids instead of the library, if it can
  std::unique_ptr<Processor> processor_;
  std::unique_ptr<Processor> continuing_;  // as processor_, but for text that does not start a text
  TokenMatcher tokens_;                    // what the library does not look for
  TokenMatcher guarded_;                   // special tokens that it does look for
  bool add_bos_ = true, add_eos_ = false;
  std::optional<int64_t> bos_, eos_;
  std::string chat_template_;
};

}  // namespace liger::detail
