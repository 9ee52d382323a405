#pragma once

#include <cstdint>
#include <filesystem>

#include "liger/io/tokenizer.h"
#include "train/row_format.h"

namespace liger {

// What write_corpus() makes and Corpus maps:
//   tokens  uint32 each; the highest bit: it is to be learned
//   rows    a CorpusRow each
inline constexpr const char *kTokensFile = "tokens", *kRowsFile = "rows";
inline constexpr uint32_t kLearnedBit = uint32_t{1} << 31;

/// Throws as write_corpus() if one of the first rows is bad: what is wrong with a whole file mostly shows there, and
/// its hash, which the cache needs first, takes a second a gigabyte.
void check_first_rows(const std::filesystem::path& file, const RowFormat& format);

/// Turns the rows of a data file into tokens in `folder`, holding a few hundred rows at a time.
/// Throws Error(kBadInput) "FILE:LINE: ..." on a row that is not as `format` wants it, on a file without rows, and on a
/// token that is not below `vocab_size`; Error(kCancelled) after a signal.
void write_corpus(const std::filesystem::path& folder, const std::filesystem::path& file, const RowFormat& format,
                  const Tokenizer& tokenizer, int64_t vocab_size);

}  // namespace liger
