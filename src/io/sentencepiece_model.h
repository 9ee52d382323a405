#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace liger::detail {

/// What liger must know of a tokenizer.model besides the ids of a text, which the sentencepiece library finds.
struct SentencePieceModel {
  enum class Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
    int byte = -1;  ///< the byte that a kByte piece stands for
  };
  std::vector<Piece> pieces;                       ///< by id
  std::string unknown_surface = " \xE2\x81\x87 ";  ///< what the unknown piece becomes in text
  bool add_dummy_prefix = true;                    ///< encoding puts a space before the text
  bool remove_extra_spaces = true;                 ///< and drops spaces at the ends, and all but one of a run
  bool is_bpe = false;                             ///< else unigram
  bool byte_fallback = false;                      ///< unknown characters become byte pieces
  bool has_rules = false;                          ///< text is normalized by rules of the model's own
  bool spaces_are_marked = true;                   ///< as U+2581 before words, not behind them
};

/// Reads the file's bytes and checks all that the library would trust: it aborts, or reads out of bounds, on some files
/// that are wrong on purpose. Throws Error(kBadInput).
SentencePieceModel parse_sentencepiece_model(std::string_view bytes);

}  // namespace liger::detail
