#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace liger::detail {

struct Merge {
  uint32_t rank = 0;   ///< place in the list of merges; the lowest goes first
  int32_t result = -1; ///< the symbol that replaces the pair
};

/// Pairs of symbols that may be joined: a hash table with open addressing, several times faster than the standard one.
class MergeTable {
 public:
  explicit MergeTable(size_t count = 0);
  /// False if the pair is there already. At most `count` pairs fit.
  bool insert(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    Merge merge;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t slot_of(uint64_t pair) const;
  std::vector<Slot> slots_;
  int shift_ = 0;
};

/// Joins neighbours until no pair of the table is left: always the pair with the lowest rank, the leftmost of equals.
/// O(n log n). Symbols are >= 0; at most 2^31 of them.
void merge_symbols(std::vector<int32_t>& symbols, const MergeTable& table);

}  // namespace liger::detail
