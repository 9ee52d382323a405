#include "io/bpe_model.h"

#include <algorithm>

#include "io/json_fields.h"
#include "io/text.h"
#include "io/utf8.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

constexpr char32_t kBasicPlane = 0x10000;

std::string byte_piece(int byte) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
}

/// The two halves of a merge: ["a", "b"], or "a b" in older files.
std::pair<std::string_view, std::string_view> merge_halves(const Json& merge, size_t i) {
  const auto text = [](const Json& value) { return std::string_view(value.get_ref<const std::string&>()); };
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {text(merge[0]), text(merge[1])};
  }
  LIGER_CHECK(merge.is_string(), "model.merges[", i, "]: expected [\"left\", \"right\"] or \"left right\", got ",
              describe_type(merge));
  const std::string_view both = text(merge);
  const size_t space = both.find(' ');
  LIGER_CHECK(space != std::string_view::npos && both.find(' ', space + 1) == std::string_view::npos, "model.merges[", i,
              "]: expected two pieces with one space between, got ", describe_type(merge));
  return {both.substr(0, space), both.substr(space + 1)};
}

}  // namespace

BpeModel::BpeModel(const Json& model) {
  check_fields(model, "model", {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  const std::string type = string_field(model, "type", "model", "BPE");
  LIGER_CHECK(type == "BPE", "model: type '", printable(type), "' is not supported, only BPE");
  if (const Json* dropout = find_field(model, "dropout")) {
    LIGER_CHECK(dropout->is_number() && dropout->get<double>() == 0, "model: dropout ", describe_type(*dropout),
                " is not supported: it would make the ids random");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    LIGER_CHECK(string_field(model, key, "model", "").empty(), "model: '", key, "' is not supported");
  }
  fuse_unknown_ = bool_field(model, "fuse_unk", "model", false);
  byte_fallback_ = bool_field(model, "byte_fallback", "model", false);
  ignore_merges_ = bool_field(model, "ignore_merges", "model", false);
  read_vocabulary(need_field(model, "vocab", "model"));
  if (find_field(model, "unk_token") != nullptr) {
    const std::string unknown = string_field(model, "unk_token", "model");
    const auto id = find(unknown);
    LIGER_CHECK(id, "model: unk_token '", printable(unknown), "' is not in the vocabulary");
    unknown_ = static_cast<int32_t>(*id);
  }
  find_characters();
  if (byte_fallback_) find_bytes();
  read_merges(need_field(model, "merges", "model"));
}

void BpeModel::read_vocabulary(const Json& vocabulary) {
  LIGER_CHECK(vocabulary.is_object(), "model.vocab: expected an object, got ", describe_type(vocabulary));
  LIGER_CHECK(!vocabulary.empty(), "model.vocab: empty");
  // Gaps are allowed, but a few entries must not claim memory for a billion.
  const int64_t limit = 4 * static_cast<int64_t>(vocabulary.size()) + (1 << 16);
  ids_.reserve(vocabulary.size());
  for (const auto& [piece, value] : vocabulary.items()) {
    const auto where = [&piece = piece] { return "model.vocab: '" + printable(piece) + "'"; };
    const int64_t id = id_value(value, where());
    LIGER_CHECK(id < limit, where(), ": id ", id, " is far beyond the ", vocabulary.size(), " pieces there are");
    if (id >= id_limit()) pieces_.resize(static_cast<size_t>(id) + 1);
    const std::string*& slot = pieces_[static_cast<size_t>(id)];
    LIGER_CHECK(slot == nullptr, where(), ": id ", id, " is also that of '", printable(slot ? *slot : ""), "'");
    slot = &ids_.emplace(piece, static_cast<int32_t>(id)).first->first;
  }
}

void BpeModel::read_merges(const Json& merges) {
  LIGER_CHECK(merges.is_array(), "model.merges: expected an array, got ", describe_type(merges));
  merges_ = MergeTable(merges.size());
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].is_string() && merges[i].get_ref<const std::string&>().starts_with("#version")) continue;
    const auto where = [i] { return cat("model.merges[", i, "]"); };
    const auto [left, right] = merge_halves(merges[i], i);
    joined.assign(left).append(right);
    const auto known = [&](std::string_view piece) {
      const auto at = ids_.find(piece);
      LIGER_CHECK(at != ids_.end() && !piece.empty(), where(), ": '", printable(piece), "' is not in the vocabulary");
      return at->second;
    };
    const Merge merge = {known(left), known(right), known(joined)};
    LIGER_CHECK(merges_.insert(static_cast<uint32_t>(i), merge), where(), ": '", printable(left), "' and '",
                printable(right), "' are merged twice");
  }
}

void BpeModel::find_characters() {
  basic_chars_.assign(kBasicPlane, -1);
  for (const auto& [piece, id] : ids_) {
    if (piece.empty() || piece.size() != utf8_length(piece[0])) continue;
    size_t at = 0;
    const char32_t c = next_char(piece, at);
    if (c < kBasicPlane) {
      basic_chars_[c] = id;
    } else {
      other_chars_.emplace(c, id);
    }
  }
}

void BpeModel::find_bytes() {
  for (int byte = 0; byte < 256; ++byte) {
    const auto at = ids_.find(byte_piece(byte));
    // A byte that is a character of its own is never spelled as a byte: Gemma has a tab instead of "<0x09>".
    const bool needed = byte >= 0x80 || basic_chars_[static_cast<size_t>(byte)] < 0;
    LIGER_CHECK(at != ids_.end() || !needed, "model.vocab: byte_fallback needs the piece '", byte_piece(byte),
                "', which is missing");
    bytes_[static_cast<size_t>(byte)] = at == ids_.end() ? -1 : at->second;
  }
}

int32_t BpeModel::char_id(char32_t c) const {
  if (c < kBasicPlane) return basic_chars_[c];
  const auto at = other_chars_.find(c);
  return at == other_chars_.end() ? -1 : at->second;
}

std::optional<int64_t> BpeModel::find(std::string_view piece) const {
  const auto at = ids_.find(piece);
  if (at == ids_.end()) return std::nullopt;
  return at->second;
}

const std::string* BpeModel::piece(int64_t id) const {
  return id < 0 || id >= id_limit() ? nullptr : pieces_[static_cast<size_t>(id)];
}

void BpeModel::encode(std::string_view word, std::vector<int64_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = find(word)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  bool after_unknown = false;
  for (size_t at = 0; at < word.size();) {
    const size_t start = at;
    const int32_t id = char_id(next_char(word, at));
    const bool unknown = id < 0 && !byte_fallback_;
    if (id >= 0) {
      symbols.push_back(id);
    } else if (byte_fallback_) {
      for (const char byte : word.substr(start, at - start)) symbols.push_back(bytes_[static_cast<uint8_t>(byte)]);
    } else if (!(fuse_unknown_ && after_unknown)) {
      symbols.push_back(unknown_);
    }
    after_unknown = unknown;
  }
  merge_symbols(symbols, merges_);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace liger::detail
