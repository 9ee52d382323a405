#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "liger/core/sequences.h"
#include "liger/io/files.h"
#include "liger/train/options.h"

namespace liger {

/// Where a row ends, counted in tokens from the first row's begin, and its line in the data file.
struct CorpusRow {
  int64_t end, line;
};

/// The rows of a data file as tokens, each with the word whether it is to be learned:
///   alpaca, completion   [BOS] prompt, not learned; output EOS, learned. Prompt and output are encoded apart
///   text                 [BOS], not learned; text EOS, learned
///   chat, sharegpt       what the assistant says and the token that ends its turn are learned, the rest of the
///                        template is not
/// Text that spells a special token is just text. The tokens lie in a mapped file, which may be larger than memory.
class Corpus {
 public:
  /// `folder`: where the tokens of the rows of `file` were written to. Throws Error(kBadInput) if they were not.
  Corpus(const std::filesystem::path& folder, std::filesystem::path file);

  int64_t rows() const { return std::ssize(rows_); }
  int64_t begin(int64_t row) const { return row == 0 ? 0 : rows_[row - 1].end; }  ///< index of its first token
  int64_t end(int64_t row) const { return rows_[row].end; }
  int64_t token(int64_t index) const;
  bool learned(int64_t index) const;
  std::string where(int64_t row) const;                                                              ///< "FILE:LINE"
  int64_t bytes() const { return static_cast<int64_t>(tokens_.size_bytes() + rows_.size_bytes()); }  ///< on disk

 private:
  std::filesystem::path file_;
  MappedFile tokens_file_, rows_file_;
  std::span<const uint32_t> tokens_;
  std::span<const CorpusRow> rows_;
};

/// Some tokens of one row of a corpus, which the model reads as a sequence of its own.
struct Piece {
  int64_t begin, end;  ///< token indices
  int64_t row;
};

/// What one forward pass reads.
struct MicroBatch {
  Sequences tokens;
  at::Tensor targets;  ///< [N] int64: the token after each one, or kIgnoredTarget
  int64_t target_count = 0;
};

/// What became of the rows; every number is worth a line in the log.
struct DatasetCounts {
  int64_t rows = 0;
  int64_t tokens = 0, targets = 0;                ///< of all samples: read, learned
  int64_t truncated = 0, dropped = 0, split = 0;  ///< rows over max_length
  int64_t samples_without_target = 0;             ///< left out
};

/// Rows of a corpus cut into samples: chunks of up to max_length tokens (Packing::kConcat) or single rows.
/// Packed rows stay apart: each piece is a sequence of its own, and a row cut at a chunk's border goes on in the
/// next chunk as another. A piece in which nothing is learned is left out, and so is a sample of only such pieces.
class Dataset {
 public:
  /// Rows [first, last) of `corpus`. Throws Error(kBadInput) if a row is longer than max_length and over_length says
  /// error, and if no sample remains.
  Dataset(std::shared_ptr<const Corpus> corpus, int64_t first, int64_t last, const DataOptions& options);

  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  std::span<const Piece> pieces(int64_t sample) const;
  int64_t tokens(int64_t sample) const;   ///< tokens read
  int64_t targets(int64_t sample) const;  ///< tokens learned
  const DatasetCounts& counts() const { return counts_; }
  const Corpus& corpus() const { return *corpus_; }

  MicroBatch batch(std::span<const int64_t> samples, at::Device device) const;

 private:
  void add_row(int64_t row, const DataOptions& options);
  void add_piece(Piece piece);
  void close_sample();
  int64_t targets(const Piece& piece) const;

  std::shared_ptr<const Corpus> corpus_;
  std::vector<Piece> pieces_;
  std::vector<int64_t> ends_, targets_;
  DatasetCounts counts_;
  int64_t open_tokens_ = 0;  // of the sample being filled
};

/// The order in which an epoch visits `size` samples: a permutation that depends on nothing but its arguments.
std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch);

}  // namespace liger
