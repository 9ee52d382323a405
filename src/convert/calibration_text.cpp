#include "liger/convert/calibration_text.h"

#include <algorithm>
#include <functional>
#include <string>

#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/jsonl.h"

namespace liger {
namespace {

void add_strings(const OrderedJson& value, std::string& text) {
  if (value.is_string()) text += (text.empty() ? "" : "\n") + value.get<std::string>();
  if (!value.is_structured()) return;
  for (const auto& item : value) add_strings(item, text);
}

std::string text_of(const OrderedJson& row) {
  if (row.contains("text") && row["text"].is_string()) return row["text"].get<std::string>();
  std::string text;
  add_strings(row, text);
  return text;
}

// Calls take(text) for the file's texts until it returns false.
void for_texts(const std::filesystem::path& file, const std::function<bool(const std::string&)>& take) {
  if (file.extension() == ".txt") {
    take(read_text(file));
    return;
  }
  JsonlReader rows(file);
  for (auto row = rows.next_ordered(); row; row = rows.next_ordered())
    if (!take(text_of(*row))) return;
}

}  // namespace

std::vector<Sequences> read_calibration_text(const CalibrationText& options, const Tokenizer& tokenizer) {
  const auto wanted = static_cast<size_t>(options.tokens), length = static_cast<size_t>(options.length);
  std::vector<int64_t> ids;
  for_texts(options.file, [&](const std::string& text) {
    const std::vector<int64_t> more = encode_whole(tokenizer, text);
    ids.insert(ids.end(), more.begin(), more.end());
    return ids.size() < wanted;
  });
  LIGER_CHECK(ids.size() >= 2, options.file.string(), ": expected text to calibrate with, got ", ids.size(), " tokens");
  ids.resize(std::min(ids.size(), wanted));
  std::vector<std::vector<int64_t>> chunks;
  for (size_t begin = 0; begin + 1 < ids.size(); begin += length) {
    const size_t end = std::min(ids.size(), begin + length);
    chunks.emplace_back(ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end));
  }
  const auto together = static_cast<size_t>(std::max<int64_t>(1, options.batch / options.length));
  std::vector<Sequences> batches;
  for (size_t first = 0; first < chunks.size(); first += together) {
    const size_t last = std::min(chunks.size(), first + together);
    batches.emplace_back(
        std::vector(chunks.begin() + static_cast<int64_t>(first), chunks.begin() + static_cast<int64_t>(last)));
  }
  return batches;
}

}  // namespace liger
