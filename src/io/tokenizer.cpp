#include "liger/io/tokenizer.h"

#include <algorithm>
#include <span>

#include "io/bpe_tokenizer.h"
#include "io/sentencepiece_tokenizer.h"
#include "io/text.h"
#include "io/tokenizer_text.h"
#include "io/utf8.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {
namespace detail {

std::string_view text_to_encode(std::string_view text, std::string& buffer) {
  constexpr size_t kMaxText = size_t{1} << 29;
  LIGER_CHECK(text.size() <= kMaxText, "a text of ", text.size(), " bytes is too long to encode at once, at most ",
              kMaxText);
  return find_invalid_utf8(text) == std::string_view::npos ? text : buffer = to_valid_utf8(text);
}

}  // namespace detail

namespace {

/// A value in memory takes many times its bytes in the file, so that it is counted before, by the commas: the largest
/// published file has 1.4 million.
Json read_document(const std::filesystem::path& file, size_t max_bytes) {
  constexpr std::ptrdiff_t kMost = 4'000'000;
  const std::string text = read_text(file, max_bytes);
  const auto commas = std::count(text.begin(), text.end(), ',');
  LIGER_CHECK(commas <= kMost, file.string(), ": about ", commas, " entries and values, at most ", kMost,
              " are read: no tokenizer has so many");
  return parse_json(text, file.string());
}

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& dir) {
  constexpr size_t kMaxBytes = size_t{128} << 20;  // the largest published ones have 33 MB
  const auto json = dir / "tokenizer.json", model = dir / "tokenizer.model";
  if (std::filesystem::exists(json)) {
    const Json document = read_document(json, kMaxBytes);
    const detail::TokenizerConfig config(dir);
    return with_context(json.string(), [&] { return std::make_shared<detail::BpeTokenizer>(document, config); });
  }
  LIGER_CHECK(std::filesystem::exists(model), dir.string(),
              ": no tokenizer: neither tokenizer.json nor tokenizer.model is there");
  const std::string bytes = read_text(model, kMaxBytes);
  const detail::TokenizerConfig config(dir);
  return with_context(model.string(), [&] { return std::make_shared<detail::SentencePieceTokenizer>(bytes, config); });
}

std::optional<int64_t> first_token(const Tokenizer& tokenizer) {
  return tokenizer.bos() ? tokenizer.bos() : tokenizer.eos();
}

std::vector<int64_t> encode_whole(const Tokenizer& tokenizer, std::string_view text) {
  if (const auto first = first_token(tokenizer)) {
    const std::string spelled = tokenizer.decode(std::vector<int64_t>{*first}, /*keep_specials=*/true);
    if (!spelled.empty() && text.starts_with(spelled)) return tokenizer.encode(text, Specials::kParse);
  }
  return tokenizer.encode_with_specials(text, Specials::kParse);
}

namespace {

/// Bytes of up to three U+FFFD at the end: what the next id may turn into one character.
size_t open_bytes(std::string_view text) {
  constexpr size_t kMost = 3;
  size_t count = 0;
  while (count < kMost && text.ends_with(detail::kReplacementUtf8)) {
    text.remove_suffix(detail::kReplacementUtf8.size());
    ++count;
  }
  return count * detail::kReplacementUtf8.size();
}

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, std::span<const int64_t> before) : tokenizer_(tokenizer) {
  for (const int64_t id : before) push(id);
  if (!ids_.empty()) shown_ = tokenizer_.decode(ids_).size();
}

std::string StreamDecoder::push(int64_t id) {
  const bool waits = tokenizer_.waits_for_next(id);
  ids_.push_back(id);
  if (waits) return {};
  const std::string text = tokenizer_.decode(ids_);
  const size_t open = open_bytes(text), end = text.size() - open;
  if (end <= shown_) return {};
  std::string fresh = text.substr(shown_, end - shown_);
  shown_ = end;
  forget(open);
  return fresh;
}

/// Keeps only the last ids, if they alone give text: then what the start of a text does to spaces is behind them.
void StreamDecoder::forget(size_t open) {
  constexpr size_t kManyBytes = 32;  // more than enough ids to hold the open bytes and a whole character before them
  const size_t keep = open == 0 ? 1 : kManyBytes;
  if (ids_.size() <= keep) return;
  const std::span<const int64_t> tail = std::span(ids_).last(keep);
  const std::string text = tokenizer_.decode(tail);
  if (text.size() <= open || (open > 0 && open_bytes(text) != open)) return;
  shown_ = text.size() - open;
  ids_.assign(tail.begin(), tail.end());
}

std::string StreamDecoder::flush() {
  const std::string text = tokenizer_.decode(ids_);
  std::string rest = text.size() > shown_ ? text.substr(shown_) : std::string();
  ids_.clear();
  shown_ = 0;
  return rest;
}

}  // namespace liger
