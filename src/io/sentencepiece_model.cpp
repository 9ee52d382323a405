#include "io/sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_set>

#include "io/charsmap.h"
#include "io/protobuf_reader.h"
#include "io/text.h"
#include "io/token_decoder.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

Piece read_piece(std::string_view bytes, size_t index) {
  Piece piece;
  ProtobufReader message(bytes, "pieces");
  while (message.next()) {
    if (message.field() == 1) piece.text = message.bytes();
    if (message.field() == 2) piece.score = message.float32();
    if (message.field() == 3) {
      LIGER_CHECK(message.varint() >= 1 && message.varint() <= 6, "pieces[", index, "]: unknown type ",
                  message.varint());
      piece.type = static_cast<Type>(message.varint());
    }
  }
  const auto where = [&] { return cat("pieces[", index, "] '", printable(piece.text), "'"); };
  LIGER_CHECK(!piece.text.empty(), where(), ": empty");
  LIGER_CHECK(find_invalid_utf8(piece.text) == std::string::npos, where(), ": not valid UTF-8");
  LIGER_CHECK(piece.text.find('\0') == std::string::npos, where(), ": contains NUL");
  LIGER_CHECK(std::isfinite(piece.score), where(), ": the score is not finite");
  if (piece.type == Type::kByte) {
    piece.byte = byte_of_piece(piece.text);
    LIGER_CHECK(piece.byte >= 0, where(), ": a byte piece must be like <0x0A>");
  }
  return piece;
}

void read_trainer_spec(std::string_view bytes, SentencePieceModel& model) {
  constexpr uint64_t kUnigram = 1, kBpe = 2;
  ProtobufReader message(bytes, "trainer_spec");
  while (message.next()) {
    if (message.field() == 3) {
      LIGER_CHECK(message.varint() == kUnigram || message.varint() == kBpe, "trainer_spec: model_type ",
                  message.varint(), " is not supported, only 1 (unigram) and 2 (BPE)");
      model.is_bpe = message.varint() == kBpe;
    }
    if (message.field() == 24 && message.boolean()) model.spaces_are_marked = false;
    if (message.field() == 35) model.byte_fallback = message.boolean();
    if (message.field() == 44) {
      const std::string_view surface = message.bytes();
      model.unknown_surface = surface.substr(0, surface.find('\0'));  // as the library does
    }
  }
}

void read_normalizer_spec(std::string_view bytes, SentencePieceModel& model) {
  ProtobufReader message(bytes, "normalizer_spec");
  while (message.next()) {
    if (message.field() == 2 && !message.bytes().empty()) {
      check_charsmap(message.bytes(), "normalizer_spec: precompiled_charsmap");
      model.has_rules = true;
    }
    if (message.field() == 3) model.add_dummy_prefix = message.boolean();
    if (message.field() == 4) model.remove_extra_spaces = message.boolean();
    if (message.field() == 5 && !message.boolean()) model.spaces_are_marked = false;
  }
}

void refuse_denormalizer(std::string_view bytes) {
  ProtobufReader message(bytes, "denormalizer_spec");
  while (message.next()) {
    LIGER_CHECK(message.field() != 2 || message.bytes().empty(), "denormalizer_spec: rules are not supported");
  }
}

void check_bytes(const std::vector<Piece>& pieces, bool byte_fallback) {
  std::array<bool, 256> found{};
  for (const Piece& piece : pieces) {
    if (piece.type != Type::kByte) continue;
    LIGER_CHECK(byte_fallback, "byte piece '", piece.text, "', but trainer_spec says that byte_fallback is off");
    found[static_cast<size_t>(piece.byte)] = true;
  }
  const auto missing = std::find(found.begin(), found.end(), false);
  LIGER_CHECK(!byte_fallback || missing == found.end(), "byte_fallback is on, but there is no piece for byte ",
              missing - found.begin());
}

/// The library looks for user-defined pieces with a buffer of 64 and does not notice when more begin one text.
void check_user_defined(const std::vector<Piece>& pieces) {
  constexpr size_t kMost = 64;
  std::vector<std::string_view> texts, chain;
  for (const Piece& piece : pieces) {
    if (piece.type == Type::kUserDefined) texts.push_back(piece.text);
  }
  std::sort(texts.begin(), texts.end());
  for (const std::string_view text : texts) {
    while (!chain.empty() && !text.starts_with(chain.back())) chain.pop_back();
    chain.push_back(text);
    LIGER_CHECK(chain.size() <= kMost, "more than ", kMost, " user-defined pieces begin '", printable(text), "'");
  }
}

void check_pieces(const SentencePieceModel& model) {
  LIGER_CHECK(!model.pieces.empty(), "no pieces: not a sentencepiece model, or cut short");
  std::unordered_set<std::string_view> seen;
  size_t unknown = 0, usable = 0;
  for (const Piece& piece : model.pieces) {
    LIGER_CHECK(seen.insert(piece.text).second, "piece '", printable(piece.text), "' is there twice");
    unknown += piece.type == Type::kUnknown;
    usable += piece.type == Type::kNormal || piece.type == Type::kUserDefined || piece.type == Type::kUnused;
  }
  LIGER_CHECK(unknown == 1, "expected one piece of type UNKNOWN, got ", unknown);
  LIGER_CHECK(usable > 0, "no piece that text could become");
  check_bytes(model.pieces, model.byte_fallback);
  check_user_defined(model.pieces);
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes) {
  LIGER_CHECK(!bytes.starts_with("version https://git-lfs"),
              "a git-lfs pointer, not the file itself; run `git lfs pull`");
  LIGER_CHECK(!bytes.starts_with("IQ== 0"),
              "a tiktoken vocabulary, which is not supported; the tokenizer.json of the same model is");
  SentencePieceModel model;
  ProtobufReader message(bytes, "the document");
  while (message.next()) {
    switch (message.field()) {
      case 1: model.pieces.push_back(read_piece(message.bytes(), model.pieces.size())); break;
      case 2: read_trainer_spec(message.bytes(), model); break;
      case 3: read_normalizer_spec(message.bytes(), model); break;
      case 5: refuse_denormalizer(message.bytes()); break;
      default: break;
    }
  }
  check_pieces(model);
  return model;
}

}  // namespace liger::detail
