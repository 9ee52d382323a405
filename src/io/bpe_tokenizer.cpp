#include "io/bpe_tokenizer.h"

#include <algorithm>

#include "io/byte_level.h"
#include "io/json_fields.h"
#include "io/text.h"
#include "io/tokenizer_text.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

const Json& checked(const Json& json) {
  check_fields(json, "the document",
               {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                "decoder", "model"});
  const std::string version = string_field(json, "version", "the document", "1.0");
  LIGER_CHECK(version == "1.0", "version '", printable(version), "' is not supported, only 1.0");
  return json;
}

/// The special ones of added_tokens, which read_added_tokens() checks.
BpeModel::Specials special_contents(const Json& json) {
  BpeModel::Specials specials;
  const Json* list = find_field(json, "added_tokens");
  if (list == nullptr || !list->is_array()) return specials;
  for (size_t i = 0; i < list->size(); ++i) {
    const AddedToken token = read_added_token((*list)[i], cat("added_tokens[", i, "]"));
    if (token.special) specials.insert(token.content);
  }
  return specials;
}

}  // namespace

// "truncation" and "padding" are about batches and say nothing about the ids of a text: they are not used.
BpeTokenizer::BpeTokenizer(const Json& json, const TokenizerConfig& config)
    : model_(need_field(checked(json), "model", "the document"), special_contents(json)),
      normalizer_(find_field(json, "normalizer")),
      pre_tokenizer_(find_field(json, "pre_tokenizer")),
      decoder_(find_field(json, "decoder")),
      vocab_size_(model_.id_limit()) {
  read_added_tokens(find_field(json, "added_tokens"));
  check_coverage();
  LIGER_CHECK(!pre_tokenizer_.looks_at_start() || normalizer_.keeps_start(),
              "pre_tokenizer: Metaspace with prepend_scheme 'first' is not supported after this normalizer");
  if (const Json* post = find_field(json, "post_processor")) read_post_processor(*post, "post_processor");
  choose_specials(config);
}

void BpeTokenizer::read_added_tokens(const Json* list) {
  if (list == nullptr) return;
  LIGER_CHECK(list->is_array(), "added_tokens: expected an array, got ", describe_type(*list));
  std::vector<TokenMatcher::Pattern> raw, normalized;
  auto next_id = static_cast<int64_t>(model_.size());
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where = cat("added_tokens[", i, "]");
    AddedToken token = read_added_token((*list)[i], where);
    token.id = id_value(need_field((*list)[i], "id", where), where + ".id");
    LIGER_CHECK(!added_ids_.contains(token.content), where, ": '", printable(token.content), "' is listed twice");
    // The reference does not believe the file's id but counts; a file that it would read differently is no good.
    const auto in_model = model_.find(token.content);
    const int64_t expected = in_model ? *in_model : next_id++;
    LIGER_CHECK(token.id == expected, where, ": '", printable(token.content), "' has id ", token.id, ", but ",
                in_model ? "the vocabulary" : "its place in the list", " gives it ", expected);
    LIGER_CHECK(in_model || model_.piece(token.id) == nullptr, where, ": id ", token.id, " is also that of '",
                printable(*model_.piece(token.id)), "'");
    const std::string pattern = token.normalized ? normalizer_.apply(token.content) : token.content;
    LIGER_CHECK(!pattern.empty(), where, ": nothing is left of '", printable(token.content), "' after normalizing");
    (token.normalized ? normalized : raw).push_back({pattern, token});
    added_ids_.emplace(token.content, token.id);
    vocab_size_ = std::max(vocab_size_, token.id + 1);
    added_.emplace(token.id, Added{std::move(token), pattern});
  }
  raw_tokens_ = TokenMatcher(std::move(raw));
  normalized_tokens_ = TokenMatcher(std::move(normalized));
}

/// The reference drops text that has no id; here every text must have ids.
void BpeTokenizer::check_coverage() const {
  if (model_.covers_all_text()) return;
  LIGER_CHECK(pre_tokenizer_.has_byte_level(),
              "model: neither byte_fallback, nor an unk_token, nor a ByteLevel pre_tokenizer: "
              "characters outside the vocabulary would be lost");
  for (int byte = 0; byte < 256; ++byte) {
    if (byte == 0xC0 || byte == 0xC1 || byte > 0xF4) continue;  // never part of UTF-8
    std::string piece;
    append_char(piece, byte_to_char(static_cast<uint8_t>(byte)));
    LIGER_CHECK(model_.find(piece), "model.vocab: byte ", byte, " has no piece ('", piece,
                "') and there is no unk_token");
  }
}

void BpeTokenizer::read_post_processor(const Json& json, const std::string& where) {
  const std::string type = string_field(json, "type", where);
  if (type == "Sequence") {
    check_fields(json, where, {"type", "processors"});
    const Json& list = need_field(json, "processors", where);
    LIGER_CHECK(list.is_array(), where, ".processors: expected an array, got ", describe_type(list));
    for (size_t i = 0; i < list.size(); ++i) read_post_processor(list[i], cat(where, ".processors[", i, "]"));
  } else if (type == "TemplateProcessing") {
    read_template(json, where);
  } else {
    // ByteLevel moves offsets only, which nobody asks for here.
    LIGER_CHECK(type == "ByteLevel", where, ": type '", printable(type),
                "' is not supported, only Sequence, ByteLevel and TemplateProcessing");
  }
}

void BpeTokenizer::read_template(const Json& json, const std::string& where) {
  check_fields(json, where, {"type", "single", "pair", "special_tokens"});
  const Json& pieces = need_field(json, "single", where);
  const Json& specials = need_field(json, "special_tokens", where);
  LIGER_CHECK(pieces.is_array(), where, ".single: expected an array, got ", describe_type(pieces));
  LIGER_CHECK(specials.is_object(), where, ".special_tokens: expected an object, got ", describe_type(specials));
  Affixes outer;
  int texts = 0;
  for (const Json& piece : pieces) {
    check_fields(piece, where + ".single[]", {"SpecialToken", "Sequence"});
    if (const Json* name = find_field(piece, "SpecialToken")) {
      const auto ids = template_ids(*name, specials, where);
      auto& side = texts == 0 ? outer.before : outer.after;
      side.insert(side.end(), ids.begin(), ids.end());
    } else {
      const Json& sequence = need_field(piece, "Sequence", where + ".single[]");
      LIGER_CHECK(string_field(sequence, "id", where + ".single[]") == "A", where,
                  ".single: only the text A is possible");
      ++texts;
    }
  }
  LIGER_CHECK(texts == 1, where, ".single: the text must stand in it once, it does ", texts, " times");
  affixes_.before.insert(affixes_.before.begin(), outer.before.begin(), outer.before.end());
  affixes_.after.insert(affixes_.after.end(), outer.after.begin(), outer.after.end());
}

std::vector<int64_t> BpeTokenizer::template_ids(const Json& name, const Json& specials,
                                                const std::string& where) const {
  const std::string key = string_field(name, "id", where + ".single[]");
  const std::string place = where + ".special_tokens['" + printable(key) + "']";
  const Json* entry = find_field(specials, key);
  LIGER_CHECK(entry != nullptr, where, ".single: '", printable(key), "' is not in special_tokens");
  const Json& ids = need_field(*entry, "ids", place);
  const Json& tokens = need_field(*entry, "tokens", place);
  LIGER_CHECK(ids.is_array() && tokens.is_array() && ids.size() == tokens.size(), place,
              ": 'ids' and 'tokens' must be arrays of one length");
  std::vector<int64_t> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t id = id_value(ids[i], place);
    const std::string* known = find_piece(id);
    LIGER_CHECK(known != nullptr, place, ": id ", id, " is not in the vocabulary");
    LIGER_CHECK(tokens[i] == *known, place, ": id ", id, " is '", printable(*known), "', not ",
                describe_type(tokens[i]));
    out.push_back(id);
  }
  return out;
}

void BpeTokenizer::choose_specials(const TokenizerConfig& config) {
  chat_template_ = config.chat_template;
  const auto find = [this](std::string_view token) { return id_of(token); };
  const auto outermost = [](const std::vector<int64_t>& side, bool first) -> std::optional<int64_t> {
    if (side.empty()) return std::nullopt;
    return first ? side.front() : side.back();
  };
  bos_ = config.special_id("bos", find, outermost(affixes_.before, true));
  eos_ = config.special_id("eos", find, outermost(affixes_.after, false));
  for (const auto& id : {bos_, eos_}) {
    LIGER_CHECK(!id || find_piece(*id) != nullptr, "the configuration gives ", *id,
                " as a BOS or EOS id, which is not in the vocabulary");
  }
  // What tokenizer_config.json says goes before the template, as in transformers.
  const auto side = [](bool add, std::optional<int64_t> id) {
    return add && id ? std::vector<int64_t>{*id} : std::vector<int64_t>{};
  };
  if (config.add_bos) affixes_.before = side(*config.add_bos, bos_);
  if (config.add_eos) affixes_.after = side(*config.add_eos, eos_);
}

std::vector<int64_t> BpeTokenizer::encode(std::string_view text, Specials specials) const {
  std::string buffer, normalized;
  text = text_to_encode(text, buffer);
  std::vector<int64_t> ids;
  for (const auto& span : raw_tokens_.split(text, specials)) {
    if (span.id) {
      ids.push_back(*span.id);
      continue;
    }
    const std::string_view part = text.substr(span.begin, span.end - span.begin);
    encode_part(normalizer_.apply(part, normalized), span.begin == 0, specials, ids);
  }
  return ids;
}

void BpeTokenizer::encode_part(std::string_view text, bool at_start, Specials specials,
                               std::vector<int64_t>& ids) const {
  for (const auto& span : normalized_tokens_.split(text, specials)) {
    if (span.id) {
      ids.push_back(*span.id);
    } else {
      pre_tokenizer_.split(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0,
                           [&](std::string_view word) { model_.encode(word, ids); });
    }
  }
}

std::vector<int64_t> BpeTokenizer::encode_with_specials(std::string_view text, Specials specials) const {
  std::vector<int64_t> ids = encode(text, specials);
  ids.insert(ids.begin(), affixes_.before.begin(), affixes_.before.end());
  ids.insert(ids.end(), affixes_.after.begin(), affixes_.after.end());
  return ids;
}

std::string BpeTokenizer::decode(std::span<const int64_t> ids, bool keep_specials) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const int64_t id : ids) {
    const auto added = added_.find(id);
    if (added == added_.end()) {
      pieces.push_back(need_piece(id));
    } else if (keep_specials || !added->second.token.special) {
      pieces.push_back(added->second.decoded);
    }
  }
  return decoder_.decode(std::move(pieces));
}

const std::string* BpeTokenizer::find_piece(int64_t id) const {
  const auto added = added_.find(id);
  return added != added_.end() ? &added->second.token.content : model_.piece(id);
}

const std::string& BpeTokenizer::need_piece(int64_t id) const {
  const std::string* piece = find_piece(id);
  LIGER_CHECK(piece != nullptr, "token id ", id, " is not in the vocabulary (ids up to ", vocab_size_ - 1, ")");
  return *piece;
}

std::string BpeTokenizer::token(int64_t id) const { return need_piece(id); }

std::optional<int64_t> BpeTokenizer::id_of(std::string_view token) const {
  const auto added = added_ids_.find(std::string(token));
  return added != added_ids_.end() ? added->second : model_.find(token);
}

bool BpeTokenizer::is_special(int64_t id) const {
  const auto added = added_.find(id);
  if (added != added_.end()) return added->second.token.special;
  need_piece(id);
  return false;
}

// Special tokens are left out before bytes are joined: they do not end a run of bytes.
bool BpeTokenizer::waits_for_next(int64_t id) const { return is_special(id) || decoder_.is_byte(need_piece(id)); }

}  // namespace liger::detail
