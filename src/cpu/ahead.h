// Asks for the rows of the next chunk while this one is computed. A head's rows lie pages apart, so that the processor
// does not see them coming; and asked for all at once they are more than it keeps track of, and stall it.
#pragma once

#include <cstdint>

namespace liger {
namespace {

class Ahead {
 public:
  /// Forgets what was not asked for yet.
  void clear() { blocks_ = block_ = row_ = 0; }
  /// n rows of `bytes` each, `stride` bytes apart.
  void add(const void* first, int64_t n, int64_t stride, int64_t bytes) {
    if (blocks_ < kBlocks) block_of_[blocks_++] = {static_cast<const char*>(first), n, stride, bytes};
  }
  /// Asks for the next few rows: about as much as the memory system takes between two products.
  void some() {
    for (int64_t lines = 0; lines < kLines && block_ < blocks_;) {
      const Block& block = block_of_[block_];
      const char* row = block.first + row_ * block.stride;
      for (int64_t at = 0; at < block.bytes; at += 64, ++lines) __builtin_prefetch(row + at, 0, 2);
      if (++row_ == block.n) row_ = 0, ++block_;
    }
  }

 private:
  static constexpr int64_t kBlocks = 10, kLines = 32;
  struct Block {
    const char* first;
    int64_t n, stride, bytes;
  };
  Block block_of_[kBlocks];
  int64_t blocks_ = 0, block_ = 0, row_ = 0;
};

}  // namespace
}  // namespace liger
