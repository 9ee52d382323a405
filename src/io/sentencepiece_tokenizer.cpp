#include "io/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include "io/normalizer.h"
#include "io/text.h"
#include "io/tokenizer_text.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

using Type = SentencePieceModel::Type;
constexpr int kFatalOnly = 3;                        // of the library's levels of logging
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581 stands for a space in pieces
// A second normalizer_spec, which a reader of the format merges into the first: no dummy prefix, spaces kept.
constexpr std::string_view kKeepSpaces{"\x1A\x04\x18\x00\x20\x00", 6};

std::unique_ptr<sentencepiece::SentencePieceProcessor> load_processor(const std::string& bytes) {
  // Its complaints reach the caller as an Error, not on stderr.
  [[maybe_unused]] static const bool quiet = (sentencepiece::SetMinLogLevel(kFatalOnly), true);
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  std::string reason;
  try {
    const auto status = processor->LoadFromSerializedProto(bytes);
    if (status.ok()) return processor;
    reason = status.ToString();
  } catch (const std::exception& e) {
    reason = e.what();
  }
  fail(ErrorCode::kBadInput, "sentencepiece cannot use it: ", printable(reason, 200));
}

/// Bytes of characters, each byte that is not part of a valid one as U+FFFD of its own.
void append_bytes(std::string& out, std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(std::string_view(bytes).substr(at));
    const size_t used = step.valid ? step.bytes : 1;
    out += step.valid ? std::string_view(bytes).substr(at, used) : kReplacementUtf8;
    at += used;
  }
  bytes.clear();
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(const std::string& bytes, const TokenizerConfig& config)
    : model_(parse_sentencepiece_model(bytes)), bpe_(PieceBpe::of(model_)), processor_(load_processor(bytes)) {
  for (auto& piece : model_.pieces) {
    const bool special = piece.type == Type::kControl || piece.type == Type::kUnknown;
    pieces_.push_back({std::move(piece), special});
  }
  model_.pieces.clear();
  add_tokens(config.added_tokens());
  for (size_t id = 0; id < pieces_.size(); ++id) {
    if (pieces_[id].known) ids_.emplace(pieces_[id].text, static_cast<int64_t>(id));
  }
  if (!guarded_.empty() && !bpe_) continuing_ = load_processor(bytes + std::string(kKeepSpaces));
  choose_specials(config);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void SentencePieceTokenizer::add_tokens(const std::vector<AddedToken>& tokens) {
  const auto in_model = static_cast<int64_t>(pieces_.size());
  std::vector<TokenMatcher::Pattern> patterns, guarded;
  for (const AddedToken& token : tokens) {
    const auto where = [&] {
      return cat("tokenizer_config.json: added token ", token.id, " '", printable(token.content), "'");
    };
    if (token.id < in_model) {
      Piece& piece = pieces_[static_cast<size_t>(token.id)];
      LIGER_CHECK(piece.text == token.content, where(), ": the model's piece with this id is '", printable(piece.text),
                  "'");
      if (!token.special || piece.special) continue;
      piece.special = true;
      if (piece.type == Type::kUserDefined) guarded.push_back({token.content, token});
    } else {
      LIGER_CHECK(token.id - in_model < 2 * static_cast<int64_t>(tokens.size()) + (1 << 16), where(),
                  ": the id is far beyond the ", in_model, " pieces of the model");
      if (token.id >= vocab_size()) pieces_.resize(static_cast<size_t>(token.id) + 1, Piece{{}, false, false});
      pieces_[static_cast<size_t>(token.id)] = {{token.content, 0, Type::kUserDefined, -1}, token.special, true};
    }
    patterns.push_back({token.content, token});
  }
  for (size_t id = 0; id < static_cast<size_t>(in_model); ++id) {
    const Piece& piece = pieces_[id];
    if (piece.type != Type::kControl && piece.type != Type::kUnknown) continue;
    AddedToken token{static_cast<int64_t>(id), piece.text};
    token.special = true;
    patterns.push_back({piece.text, token});
  }
  tokens_ = TokenMatcher(std::move(patterns));
  guarded_ = TokenMatcher(std::move(guarded));
}

void SentencePieceTokenizer::choose_specials(const TokenizerConfig& config) {
  chat_template_ = config.chat_template;
  const auto find = [this](std::string_view token) { return id_of(token); };
  const auto own = [](int id) { return id < 0 ? std::nullopt : std::optional<int64_t>(id); };
  bos_ = config.special_id("bos", find, own(processor_->bos_id()));
  eos_ = config.special_id("eos", find, own(processor_->eos_id()));
  for (const auto& id : {bos_, eos_}) {
    if (id) need_piece(*id);
  }
  add_bos_ = config.add_bos.value_or(true) && bos_;
  add_eos_ = config.add_eos.value_or(false) && eos_;
}

std::vector<int64_t> SentencePieceTokenizer::encode(std::string_view text, Specials specials) const {
  std::string buffer;
  text = text_to_encode(text, buffer);
  std::vector<int64_t> ids;
  for (const auto& span : tokens_.split(text, specials)) {
    if (span.id) {
      ids.push_back(*span.id);
    } else {
      encode_text(text.substr(span.begin, span.end - span.begin), specials, ids);
    }
  }
  return ids;
}

/// The library makes ids of user-defined pieces wherever they stand. Those that are special and to be taken literally
/// are cut behind their first character, so that it never sees one whole.
void SentencePieceTokenizer::encode_text(std::string_view text, Specials specials, std::vector<int64_t>& ids) const {
  size_t start = 0;
  const auto encode_up_to = [&](size_t end) {
    if (bpe_) {
      bpe_->encode(text.substr(start, end - start), start == 0, ids);
      start = end;
      return;
    }
    const Processor& processor = start == 0 ? *processor_ : *continuing_;
    std::vector<int> found;
    const auto status = processor.Encode(text.substr(start, end - start), &found);
    if (!status.ok()) fail(ErrorCode::kInternal, "sentencepiece cannot encode a text: ", status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
    start = end;
  };
  if (specials == Specials::kLiteral && !guarded_.empty()) {
    for (size_t at = 0; at < text.size(); at += utf8_length(text[at])) {
      if (guarded_.longest_at(text, at) != nullptr) encode_up_to(at + utf8_length(text[at]));
    }
  }
  if (start < text.size()) encode_up_to(text.size());
}

std::vector<int64_t> SentencePieceTokenizer::encode_with_specials(std::string_view text, Specials specials) const {
  std::vector<int64_t> ids = encode(text, specials);
  if (add_bos_) ids.insert(ids.begin(), *bos_);
  if (add_eos_) ids.push_back(*eos_);
  return ids;
}

std::string SentencePieceTokenizer::decode(std::span<const int64_t> ids, bool keep_specials) const {
  std::string text, bytes;
  bool at_start = model_.add_dummy_prefix || model_.remove_extra_spaces;  // a space here is not part of the text
  bool stripped = false;
  for (const int64_t id : ids) {
    const Piece& piece = need_piece(id);
    if (piece.type == Type::kByte) {
      bytes += static_cast<char>(piece.byte);
      continue;
    }
    append_bytes(text, bytes);
    if (stripped || !text.empty()) at_start = false;
    stripped = false;
    if (piece.type == Type::kUnknown) {
      text += model_.unknown_surface;
    } else if (piece.special) {
      if (keep_specials) text += piece.text;
    } else {
      std::string_view rest = piece.text;
      if (at_start && rest.starts_with(kSpace)) {
        rest.remove_prefix(kSpace.size());
        stripped = !model_.remove_extra_spaces;
      }
      text += replace_all(rest, kSpace, " ");
    }
  }
  append_bytes(text, bytes);
  return text;
}

const SentencePieceTokenizer::Piece& SentencePieceTokenizer::need_piece(int64_t id) const {
  LIGER_CHECK(id >= 0 && id < vocab_size() && pieces_[static_cast<size_t>(id)].known, "token id ", id,
              " is not in the vocabulary (ids up to ", vocab_size() - 1, ")");
  return pieces_[static_cast<size_t>(id)];
}

std::optional<int64_t> SentencePieceTokenizer::id_of(std::string_view token) const {
  const auto at = ids_.find(token);
  return at == ids_.end() ? std::nullopt : std::optional<int64_t>(at->second);
}

}  // namespace liger::detail
