#include <ATen/Parallel.h>

#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/io/jsonl.h"
#include "liger/train/dataset.h"
#include "train/row_format.h"

namespace liger {
namespace {

constexpr int64_t kRowsAtATime = 512;

struct Row {
  std::vector<Segment> segments;
  int64_t line;
};

std::vector<EncodedRow> encode_all(const std::vector<Row>& rows, const Tokenizer& tokenizer) {
  std::vector<EncodedRow> encoded(rows.size());
  at::parallel_for(0, static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) encoded[i] = encode(rows[i].segments, tokenizer);
  });
  return encoded;
}

}  // namespace

Corpus::Corpus(const std::filesystem::path& file, const DataOptions& options, const Tokenizer& tokenizer,
               int64_t vocab_size)
    : file_(file) {
  const RowFormat format(options, tokenizer);
  JsonlReader reader(file);
  const auto add = [&](int64_t token, bool learned, int64_t line) {
    LIGER_CHECK(token < vocab_size, file.string(), ":", line, ": the tokenizer gives token ", token,
                ", but the model has vocab_size ", vocab_size, ": they do not belong together");
    tokens_.push_back(static_cast<int32_t>(token));
    learned_.push_back(learned);
  };
  std::vector<Row> rows;
  bool more = true;
  while (more) {
    throw_if_interrupted();
    rows.clear();
    while (static_cast<int64_t>(rows.size()) < kRowsAtATime) {
      const std::optional<Json> row = reader.next();
      if (!(more = row.has_value())) break;
      rows.push_back({format.segments(*row, reader.where()), reader.line()});
    }
    const std::vector<EncodedRow> encoded = encode_all(rows, tokenizer);
    for (size_t i = 0; i < rows.size(); ++i) {
      for (size_t t = 0; t < encoded[i].tokens.size(); ++t) add(encoded[i].tokens[t], encoded[i].learned[t], rows[i].line);
      ends_.push_back(static_cast<int64_t>(tokens_.size()));
      lines_.push_back(rows[i].line);
    }
  }
  LIGER_CHECK(!ends_.empty(), file.string(), ": expected one JSON object a line, got no row at all");
}

std::string Corpus::where(int64_t row) const { return cat(file_.string(), ":", lines_[row]); }

}  // namespace liger
