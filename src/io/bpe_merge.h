#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace liger::detail {

/// A pair of neighbours that may be joined, and the symbol that replaces it.
struct Merge {
  int32_t left = -1, right = -1, result = -1;
};

/// All merges by rank, the lowest priority of which goes first, and by pair: a hash table with open addressing, several
/// times faster than the standard one.
class MergeTable {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};
  /// At most `count` merges fit; their ranks are below it.
  explicit MergeTable(size_t count = 0);
  /// False if the pair is there already. Its priority is its rank.
  bool insert(uint32_t rank, Merge merge);
  /// The same for merges of which several may have one priority: it is below the count too.
  bool insert(uint32_t rank, Merge merge, uint32_t priority);
  uint32_t rank_of(int32_t left, int32_t right) const;  ///< kNone if the pair cannot be joined
  const Merge& at(uint32_t rank) const { return merges_[rank]; }
  uint32_t priority_of(uint32_t rank) const { return priorities_.empty() ? rank : priorities_[rank]; }
  bool priorities_are_ranks() const { return priorities_.empty(); }
  size_t rank_limit() const { return merges_.size(); }

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    uint32_t rank = kNone;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t slot_of(uint64_t pair) const;
  std::vector<Slot> slots_;
  std::vector<Merge> merges_;
  std::vector<uint32_t> priorities_;  // of the ranks, if any differs
  int shift_ = 0;
};

/// Joins neighbours until no pair of the table is left: always the pair with the lowest priority, the leftmost of
/// equals.
/// O(n log n). Symbols are >= 0; at most 2^31 of them.
void merge_symbols(std::vector<int32_t>& symbols, const MergeTable& table);

}  // namespace liger::detail
