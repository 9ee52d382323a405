#include "liger/train/dataset.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

#include "liger/error.h"
#include "liger/ops/linear_cross_entropy.h"

namespace liger {
namespace {

// SplitMix64 (public domain, Sebastiano Vigna): the standard library's distributions differ between libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t bound) {  // unbiased: what does not divide evenly is drawn again
    const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t x = next();
    while (x >= limit) x = next();
    return x % bound;
  }

 private:
  uint64_t state_;
};

}  // namespace

std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  Random random(Random(seed).next() + static_cast<uint64_t>(epoch));
  for (int64_t i = size - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  return order;
}

Dataset::Dataset(std::shared_ptr<const Corpus> corpus, int64_t first, int64_t last, const DataOptions& options)
    : corpus_(std::move(corpus)) {
  for (int64_t row = first; row < last; ++row) add_row(row, options);
  close_sample();
  counts_.rows = last - first;
  LIGER_CHECK(size() > 0, corpus_->where(first), ": none of the ", last - first,
              " rows from here on leaves a token to "
              "learn: ",
              counts_.dropped, " were dropped and ", counts_.truncated, " truncated at data.max_length ",
              options.max_length);
}

void Dataset::add_row(int64_t row, const DataOptions& options) {
  int64_t begin = corpus_->begin(row), end = corpus_->end(row);
  const int64_t limit = options.max_length;
  if (end - begin > limit) {
    switch (options.over_length) {
      case OverLength::kError:
        fail(ErrorCode::kBadInput, corpus_->where(row), ": the row has ", end - begin,
             " tokens, but data.max_length is ", limit, "; set data.over_length to truncate, drop or split");
      case OverLength::kDrop: ++counts_.dropped; return;
      case OverLength::kTruncate:
        ++counts_.truncated;
        end = begin + limit;
        break;
      case OverLength::kSplit: ++counts_.split; break;
    }
  }
  while (begin < end) {
    const int64_t taken = std::min(end - begin, limit - open_tokens_);
    add_piece({begin, begin + taken, row});
    begin += taken;
    if (options.pack == Packing::kNone || open_tokens_ == limit) close_sample();
  }
}

int64_t Dataset::targets(const Piece& piece) const {
  int64_t count = 0;
  for (int64_t i = piece.begin + 1; i < piece.end; ++i) count += corpus_->learned(i);
  return count;
}

void Dataset::add_piece(Piece piece) {
  open_tokens_ += piece.end - piece.begin;
  // Nothing else reads what it computes: sequences never see each other.
  if (targets(piece) > 0) pieces_.push_back(piece);
}

void Dataset::close_sample() {
  if (open_tokens_ == 0) return;
  open_tokens_ = 0;
  const auto begin = static_cast<size_t>(ends_.empty() ? 0 : ends_.back());
  if (begin == pieces_.size()) {
    ++counts_.samples_without_target;
    return;
  }
  int64_t learned = 0;
  for (size_t i = begin; i < pieces_.size(); ++i) {
    learned += targets(pieces_[i]);
    counts_.tokens += pieces_[i].end - pieces_[i].begin;
  }
  counts_.targets += learned;
  targets_.push_back(learned);
  ends_.push_back(static_cast<int64_t>(pieces_.size()));
}

std::span<const Piece> Dataset::pieces(int64_t sample) const {
  const int64_t begin = sample == 0 ? 0 : ends_[sample - 1];
  return std::span(pieces_).subspan(begin, ends_[sample] - begin);
}

int64_t Dataset::tokens(int64_t sample) const {
  int64_t count = 0;
  for (const Piece& piece : pieces(sample)) count += piece.end - piece.begin;
  return count;
}

int64_t Dataset::targets(int64_t sample) const { return targets_[sample]; }

MicroBatch Dataset::batch(std::span<const int64_t> samples, at::Device device) const {
  std::vector<std::vector<int64_t>> documents;
  std::vector<int64_t> next;
  int64_t count = 0;
  for (const int64_t sample : samples) {
    count += targets(sample);
    for (const Piece& piece : pieces(sample)) {
      std::vector<int64_t>& document = documents.emplace_back();
      document.reserve(piece.end - piece.begin);
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        document.push_back(corpus_->token(i));
        const bool learned = i + 1 < piece.end && corpus_->learned(i + 1);
        next.push_back(learned ? corpus_->token(i + 1) : kIgnoredTarget);
      }
    }
  }
  at::Tensor targets = at::empty({static_cast<int64_t>(next.size())}, at::kLong);
  std::copy(next.begin(), next.end(), targets.mutable_data_ptr<int64_t>());
  return {Sequences(documents, device), targets.to(device), count};
}

}  // namespace liger
