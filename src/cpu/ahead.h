// Asks for the rows that come next while a chunk is computed. A head's rows lie pages apart, so that the processor
// does not see them coming; and asked for all at once they are more than it keeps track of, and stall it.
#pragma once

#include <cstdint>

namespace liger {
namespace {

class Ahead {
 public:
  /// The next chunk: forgets rows, and expects as many pauses as the last one had.
  void start() {
    pauses_ = taken_ > 0 ? taken_ : pauses_;
    taken_ = blocks_ = block_ = row_ = lines_ = 0;
  }
  /// Rows first .. first + n - 1, `size` elements of type E each and `stride` elements apart.
  template <typename E>
  void add(const void* base, int64_t first, int64_t n, int64_t stride, int64_t size) {
    if (blocks_ == kBlocks) return;
    constexpr int64_t kScalar = sizeof(E);
    const int64_t lines = (size * kScalar + 63) / 64;
    block_of_[blocks_++] = {static_cast<const char*>(base) + first * stride * kScalar, n, stride * kScalar, lines};
    lines_ += n * lines;
  }
  /// In a pause between two products: asks for its share of the rows.
  void some() {
    const int64_t pauses = pauses_ - taken_++;
    for (int64_t share = pauses > 1 ? (lines_ + pauses - 1) / pauses : lines_; share > 0 && block_ < blocks_;) {
      const Block& block = block_of_[block_];
      const char* row = block.first + row_ * block.stride;
      for (int64_t line = 0; line < block.lines; ++line) __builtin_prefetch(row + 64 * line, 0, 2);
      share -= block.lines;
      lines_ -= block.lines;
      if (++row_ == block.n) row_ = 0, ++block_;
    }
  }

 private:
  static constexpr int64_t kBlocks = 10;
  struct Block {
    const char* first;
    int64_t n, stride, lines;
  };
  Block block_of_[kBlocks];
  int64_t blocks_ = 0, block_ = 0, row_ = 0, lines_ = 0;
  int64_t pauses_ = 12, taken_ = 0;
};

}  // namespace
}  // namespace liger
