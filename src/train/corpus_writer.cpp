#include "train/corpus_writer.h"

#include <ATen/Parallel.h>

#include <vector>

#include "io/byte_source.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/io/jsonl.h"
#include "liger/io/log.h"
#include "liger/train/dataset.h"

namespace liger {
namespace {

// Rows in memory at a time: enough of them for every core, and few bytes if they are long.
constexpr size_t kRowsAtATime = 512, kBytesAtATime = size_t{4} << 20;

struct RowText {
  std::vector<Segment> segments;
  int64_t line;
};

/// The next rows of the file; none at its end.
std::vector<RowText> read_rows(JsonlReader& reader, const RowFormat& format) {
  std::vector<RowText> rows;
  size_t bytes = 0;
  while (rows.size() < kRowsAtATime && bytes < kBytesAtATime) {
    const std::optional<Json> row = reader.next();
    if (!row) break;
    rows.push_back({format.segments(*row, reader.where()), reader.line()});
    for (const Segment& segment : rows.back().segments) bytes += segment.prompt.size() + segment.output.size();
  }
  return rows;
}

std::vector<EncodedRow> encode_all(const std::vector<RowText>& rows, const Tokenizer& tokenizer) {
  std::vector<EncodedRow> encoded(rows.size());
  at::parallel_for(0, static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) encoded[i] = encode(rows[i].segments, tokenizer);
  });
  return encoded;
}

template <typename T>
void append(AtomicFile& file, const std::vector<T>& values) {
  file.write(values.data(), values.size() * sizeof(T));
}

}  // namespace

void check_first_rows(const std::filesystem::path& file, const RowFormat& format) {
  if (detail::without_compression(file).extension() == ".json") return;  // an array is read whole or not at all
  JsonlReader reader(file);
  read_rows(reader, format);
}

void write_corpus(const std::filesystem::path& folder, const std::filesystem::path& file, const RowFormat& format,
                  const Tokenizer& tokenizer, int64_t vocab_size) {
  JsonlReader reader(file);
  AtomicFile tokens_file(folder / kTokensFile), rows_file(folder / kRowsFile);
  Progress progress("rows tokenised", 0);
  int64_t token_count = 0, row_count = 0;
  while (true) {
    throw_if_interrupted();
    const std::vector<RowText> rows = read_rows(reader, format);
    if (rows.empty()) break;
    std::vector<uint32_t> tokens;
    std::vector<CorpusRow> index;
    const std::vector<EncodedRow> encoded = encode_all(rows, tokenizer);
    for (size_t i = 0; i < rows.size(); ++i) {
      const EncodedRow& row = encoded[i];
      for (size_t t = 0; t < row.tokens.size(); ++t) {
        LIGER_CHECK(row.tokens[t] < vocab_size, file.string(), ":", rows[i].line, ": the tokenizer gives token ",
                    row.tokens[t], ", but the model has vocab_size ", vocab_size, ": they do not belong together");
        tokens.push_back(static_cast<uint32_t>(row.tokens[t]) | (row.learned[t] ? kLearnedBit : 0));
      }
      token_count += std::ssize(row.tokens);
      index.push_back({token_count, rows[i].line});
    }
    append(tokens_file, tokens);
    append(rows_file, index);
    progress.update(row_count += std::ssize(rows));
  }
  progress.finish();
  LIGER_CHECK(row_count > 0, file.string(), ": expected one JSON object a line, got no row at all");
  tokens_file.commit();
  rows_file.commit();
}

}  // namespace liger
