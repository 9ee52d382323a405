#include "io/piece_bpe.h"

#include <functional>
#include <map>

#include "io/utf8.h"

namespace liger::detail {
namespace {

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

constexpr char32_t kBasicPlane = 0x10000;
constexpr std::string_view kSpace = "\xE2\x96\x81";

bool is_one_char(std::string_view text) { return text.size() == utf8_length(text[0]); }

}  // namespace

std::optional<PieceBpe> PieceBpe::of(const SentencePieceModel& model) {
  if (!model.is_bpe || model.has_rules || model.remove_extra_spaces || !model.spaces_are_marked) return std::nullopt;
  size_t work = 0;  // of cutting every piece in two at each of its characters
  for (const Piece& piece : model.pieces) {
    work += piece.text.size() * piece.text.size();
    const bool reserved = piece.type == Type::kControl || piece.type == Type::kUnknown || piece.type == Type::kByte;
    if (piece.type == Type::kUnused || (reserved && is_one_char(piece.text))) return std::nullopt;
    if (piece.text.find(' ') != std::string::npos) return std::nullopt;  // text has none when pieces are looked for
  }
  constexpr size_t kMuchWork = size_t{1} << 30;
  if (work > kMuchWork) return std::nullopt;
  return PieceBpe(model);
}

PieceBpe::PieceBpe(const SentencePieceModel& model)
    : add_prefix_(model.add_dummy_prefix),
      byte_fallback_(model.byte_fallback),
      piece_count_(static_cast<int32_t>(model.pieces.size())) {
  read_pieces(model);
  read_merges(model);
}

void PieceBpe::read_pieces(const SentencePieceModel& model) {
  basic_chars_.assign(kBasicPlane, -1);
  std::vector<TokenMatcher::Pattern> user_defined;
  const auto add_char = [this](char32_t c, int32_t symbol) {
    if (c < kBasicPlane) {
      basic_chars_[c] = symbol;
    } else {
      other_chars_[c] = symbol;
    }
  };
  for (int32_t id = 0; id < piece_count_; ++id) {
    const Piece& piece = model.pieces[static_cast<size_t>(id)];
    if (piece.type == Type::kUnknown) unknown_ = id;
    if (piece.type == Type::kByte) bytes_[static_cast<size_t>(piece.byte)] = id;
    if (piece.type == Type::kUserDefined) user_defined.push_back({piece.text, {.id = id, .content = piece.text}});
    size_t at = 0;
    if (piece.type == Type::kNormal && is_one_char(piece.text)) add_char(next_char(piece.text, at), id);
  }
  user_defined_ = TokenMatcher(std::move(user_defined));
  for (const Piece& piece : model.pieces) {
    for (size_t at = 0; piece.type == Type::kNormal && at < piece.text.size();) {
      const char32_t c = next_char(piece.text, at);
      if (symbol_of(c) >= 0) continue;
      add_char(c, piece_count_ + static_cast<int32_t>(partial_chars_.size()));
      partial_chars_.push_back(c);
    }
  }
}

/// Any two neighbours that together are a piece can be joined, the highest score first.
void PieceBpe::read_merges(const SentencePieceModel& model) {
  std::unordered_map<std::string_view, int32_t> symbols;
  std::map<float, uint32_t, std::greater<>> priorities;
  for (int32_t id = 0; id < piece_count_; ++id) {
    const Piece& piece = model.pieces[static_cast<size_t>(id)];
    if (piece.type == Type::kNormal) symbols.emplace(piece.text, id);
  }
  const auto find = [&](std::string_view text) {
    size_t at = 0;
    if (is_one_char(text)) return symbol_of(next_char(text, at));
    const auto found = symbols.find(text);
    return found == symbols.end() ? -1 : found->second;
  };
  std::vector<Merge> merges;
  for (const auto& [text, id] : symbols) {
    const size_t before = merges.size();
    for (size_t cut = utf8_length(text[0]); cut < text.size(); cut += utf8_length(text[cut])) {
      const int32_t left = find(text.substr(0, cut)), right = find(text.substr(cut));
      if (left >= 0 && right >= 0) merges.push_back({left, right, id});
    }
    if (merges.size() > before) priorities.emplace(model.pieces[static_cast<size_t>(id)].score, 0);
  }
  uint32_t next = 0;
  for (auto& [score, priority] : priorities) priority = next++;
  merges_ = MergeTable(merges.size());
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    merges_.insert(rank, merges[rank], priorities.at(model.pieces[static_cast<size_t>(merges[rank].result)].score));
  }
}

int32_t PieceBpe::symbol_of(char32_t c) const {
  if (c < kBasicPlane) return basic_chars_[c];
  const auto found = other_chars_.find(c);
  return found == other_chars_.end() ? -1 : found->second;
}

void PieceBpe::push(std::string_view text, std::vector<int32_t>& symbols) const {
  const int32_t alone = piece_count_ + static_cast<int32_t>(partial_chars_.size());
  for (size_t at = 0; at < text.size();) {
    const auto* whole = user_defined_.empty() ? nullptr : user_defined_.longest_at(text, at);
    if (whole != nullptr) {
      symbols.push_back(alone + static_cast<int32_t>(whole->token.id));
      at += whole->text.size();
      continue;
    }
    const size_t start = at;
    const int32_t symbol = symbol_of(next_char(text, at));
    if (symbol >= 0) {
      symbols.push_back(symbol);
    } else if (byte_fallback_) {
      for (const char byte : text.substr(start, at - start)) {
        symbols.push_back(alone + bytes_[static_cast<uint8_t>(byte)]);
      }
    } else {
      symbols.push_back(alone + unknown_);
    }
  }
}

void PieceBpe::append_ids(const std::vector<int32_t>& symbols, std::vector<int64_t>& ids) const {
  const int32_t alone = piece_count_ + static_cast<int32_t>(partial_chars_.size());
  bool after_unknown = false;
  std::string utf8;
  for (const int32_t symbol : symbols) {
    const bool partial = symbol >= piece_count_ && symbol < alone;
    const int32_t id = symbol >= alone ? symbol - alone : partial ? unknown_ : symbol;
    if (partial && byte_fallback_) {
      utf8.clear();
      append_char(utf8, partial_chars_[static_cast<size_t>(symbol - piece_count_)]);
      for (const char byte : utf8) ids.push_back(bytes_[static_cast<uint8_t>(byte)]);
    } else if (id != unknown_ || !after_unknown) {
      ids.push_back(id);  // a run of unknown characters is one
    }
    after_unknown = id == unknown_ && !byte_fallback_;
  }
}

void PieceBpe::encode(std::string_view text, bool at_start, std::vector<int64_t>& ids) const {
  if (text.empty()) return;
  std::string marked;
  marked.reserve(text.size() + text.size() / 4 + kSpace.size());
  if (at_start && add_prefix_) marked = kSpace;
  for (const char c : text) {
    if (c == ' ') {
      marked += kSpace;
    } else {
      marked += c;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(marked.size());
  push(marked, symbols);
  merge_symbols(symbols, merges_);
  append_ids(symbols, ids);
}

}  // namespace liger::detail
