#include "io/bpe_merge.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace liger::detail {
namespace {

uint64_t join(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

/// Sorts keys whose low halves ascend already, by their high halves: 16 bits at a time, keeping the order of equals.
void sort_by_rank(std::vector<uint64_t>& keys) {
  constexpr size_t kWorthCounting = size_t{1} << 16;
  if (keys.size() < kWorthCounting) return std::sort(keys.begin(), keys.end());
  std::vector<uint64_t> other(keys.size());
  for (const int shift : {32, 48}) {
    std::vector<uint32_t> place(kWorthCounting + 1);
    for (const uint64_t key : keys) ++place[(key >> shift & 0xFFFF) + 1];
    if (place[1] == keys.size()) continue;
    for (size_t digit = 1; digit < place.size(); ++digit) place[digit] += place[digit - 1];
    for (const uint64_t key : keys) other[place[key >> shift & 0xFFFF]++] = key;
    keys.swap(other);
  }
}

/// The symbols as a list with holes, and the pairs that can be joined: those of the beginning sorted, later ones in a
/// heap. A pair is stale when one of its symbols has been joined with another since: then the pair that now stands at
/// its place has another rank.
class Merger {
 public:
  Merger(const std::vector<int32_t>& symbols, const MergeTable& table) : table_(table), nodes_(symbols.size()) {
    const auto count = static_cast<int32_t>(symbols.size());
    for (int32_t i = 0; i < count; ++i) nodes_[i] = {symbols[i], i - 1, i + 1 < count ? i + 1 : -1};
    for (int32_t i = 0; i + 1 < count; ++i) {
      if (const Merge* merge = pair_at(i)) first_.push_back(key(merge->rank, i));
    }
    sort_by_rank(first_);
  }

  void run(std::vector<int32_t>& symbols) {
    uint64_t top = 0;
    while (pop(top)) {
      const auto left = static_cast<int32_t>(top & 0xFFFFFFFF);
      const Merge* merge = pair_at(left);
      if (merge != nullptr && merge->rank == top >> 32) apply(left, merge->result);
    }
    symbols.clear();
    for (const Node& node : nodes_) {
      if (node.symbol != kHole) symbols.push_back(node.symbol);
    }
  }

 private:
  static constexpr int32_t kHole = -1;
  struct Node {
    int32_t symbol, previous, next;
  };
  static uint64_t key(uint32_t rank, int32_t at) { return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(at); }

  bool pop(uint64_t& top) {
    if (cursor_ < first_.size() && (heap_.empty() || first_[cursor_] < heap_.front())) {
      top = first_[cursor_++];
      return true;
    }
    if (heap_.empty()) return false;
    top = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    return true;
  }
  const Merge* pair_at(int32_t left) const {
    const Node& node = nodes_[left];
    if (node.symbol == kHole || node.next < 0) return nullptr;
    return table_.find(node.symbol, nodes_[node.next].symbol);
  }
  void push_pair_at(int32_t left) {
    if (const Merge* merge = pair_at(left)) {
      heap_.push_back(key(merge->rank, left));
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
  }
  void apply(int32_t left, int32_t result) {
    Node& node = nodes_[left];
    Node& right = nodes_[node.next];
    node.symbol = result;
    node.next = right.next;
    right.symbol = kHole;
    if (node.next >= 0) nodes_[node.next].previous = left;
    if (node.previous >= 0) push_pair_at(node.previous);
    push_pair_at(left);
  }

  const MergeTable& table_;
  std::vector<Node> nodes_;
  std::vector<uint64_t> first_;
  size_t cursor_ = 0;
  std::vector<uint64_t> heap_;
};

}  // namespace

MergeTable::MergeTable(size_t count) : slots_(std::bit_ceil(2 * count + 2)) {
  shift_ = 64 - std::countr_zero(slots_.size());
}

size_t MergeTable::slot_of(uint64_t pair) const {
  size_t slot = pair * 0x9E3779B97F4A7C15ULL >> shift_;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmpty) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

bool MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  Slot& slot = slots_[slot_of(join(left, right))];
  if (slot.pair != kEmpty) return false;
  slot = {join(left, right), merge};
  return true;
}

const Merge* MergeTable::find(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(join(left, right))];
  return slot.pair == kEmpty ? nullptr : &slot.merge;
}

void merge_symbols(std::vector<int32_t>& symbols, const MergeTable& table) {
  if (symbols.size() > 1) Merger(symbols, table).run(symbols);
}

}  // namespace liger::detail
