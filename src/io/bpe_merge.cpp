#include "io/bpe_merge.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

namespace liger::detail {
namespace {

uint64_t join(uint32_t high, uint32_t low) { return static_cast<uint64_t>(high) << 32 | low; }

template <typename T>
using MinHeap = std::priority_queue<T, std::vector<T>, std::greater<T>>;

// Both queues give pairs back by rank, and those of one rank by place.

/// For words: no cost to set up.
class SmallQueue {
 public:
  explicit SmallQueue(const MergeTable&) {}
  void push(uint32_t rank, int32_t at) { heap_.push(join(rank, static_cast<uint32_t>(at))); }
  int32_t upcoming() const { return 0; }
  bool pop(uint32_t& rank, int32_t& at) {
    if (heap_.empty()) return false;
    rank = static_cast<uint32_t>(heap_.top() >> 32);
    at = static_cast<int32_t>(heap_.top() & 0xFFFFFFFF);
    heap_.pop();
    return true;
  }

 private:
  MinHeap<uint64_t> heap_;
};

/// For megabytes: one list for each rank, so that most of the work runs through memory in order.
class LargeQueue {
 public:
  explicit LargeQueue(const MergeTable& table) : lists_(table.rank_limit()) {}
  void push(uint32_t rank, int32_t at) {
    List& list = lists_[rank];
    if (list.empty()) ranks_.push(rank);
    if (list.open) {
      list.late.push(at);
    } else {
      list.places.push_back(at);
    }
  }
  bool pop(uint32_t& rank, int32_t& at) {
    while (!ranks_.empty() && lists_[ranks_.top()].empty()) {
      lists_[ranks_.top()] = {};
      ranks_.pop();
    }
    if (ranks_.empty()) return false;
    rank = ranks_.top();
    at = lists_[rank].take();
    upcoming_ = lists_[rank].upcoming();
    return true;
  }
  /// A place that will be given back soon, most likely.
  int32_t upcoming() const { return upcoming_; }

 private:
  struct List {
    std::vector<int32_t> places;  // sorted when the first is taken
    size_t taken = 0;
    bool open = false;
    MinHeap<int32_t> late;  // what came after that
    bool empty() const { return taken == places.size() && late.empty(); }
    int32_t upcoming() const {
      constexpr size_t kAhead = 16;
      return taken + kAhead < places.size() ? places[taken + kAhead] : 0;
    }
    int32_t take() {
      if (!open && !std::is_sorted(places.begin(), places.end())) std::sort(places.begin(), places.end());
      open = true;
      if (!late.empty() && (taken == places.size() || late.top() < places[taken])) {
        const int32_t at = late.top();
        late.pop();
        return at;
      }
      return places[taken++];
    }
  };
  std::vector<List> lists_;
  int32_t upcoming_ = 0;
  MinHeap<uint32_t> ranks_;  // of the lists that are not empty; one may be there twice
};

/// The symbols as a list with holes, and a queue of the pairs that can be joined. A pair in the queue is stale when one
/// of its symbols has been joined with another since: then another pair, or none, stands at its place.
template <typename Queue>
class Merger {
 public:
  Merger(const std::vector<int32_t>& symbols, const MergeTable& table)
      : table_(table), nodes_(symbols.size()), queue_(table) {
    const auto count = static_cast<int32_t>(symbols.size());
    for (int32_t i = 0; i < count; ++i) nodes_[i] = {symbols[i], i - 1, i + 1 < count ? i + 1 : -1};
    for (int32_t i = 0; i < count; ++i) push_pair_at(i);
  }

  void run(std::vector<int32_t>& symbols) {
    uint32_t rank = 0;
    int32_t left = 0;
    while (queue_.pop(rank, left)) {
      __builtin_prefetch(&nodes_[queue_.upcoming()]);
      const Node& node = nodes_[left];
      if (node.symbol == kHole || node.next < 0) continue;
      if (!table_.priorities_are_ranks()) {
        const uint32_t found = table_.rank_of(node.symbol, nodes_[node.next].symbol);
        if (found == MergeTable::kNone || table_.priority_of(found) != rank) continue;
        apply(left, table_.at(found).result);
        continue;
      }
      const Merge& merge = table_.at(rank);
      if (node.symbol == merge.left && nodes_[node.next].symbol == merge.right) apply(left, merge.result);
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
  void push_pair_at(int32_t left) {
    const Node& node = nodes_[left];
    if (node.next < 0) return;
    const uint32_t rank = table_.rank_of(node.symbol, nodes_[node.next].symbol);
    if (rank != MergeTable::kNone) queue_.push(table_.priority_of(rank), left);
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
  Queue queue_;
};

}  // namespace

MergeTable::MergeTable(size_t count) : slots_(std::bit_ceil(2 * count + 2)), merges_(count) {
  shift_ = 64 - std::countr_zero(slots_.size());
}

size_t MergeTable::slot_of(uint64_t pair) const {
  size_t slot = pair * 0x9E3779B97F4A7C15ULL >> shift_;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmpty) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

bool MergeTable::insert(uint32_t rank, Merge merge) {
  const uint64_t pair = join(static_cast<uint32_t>(merge.left), static_cast<uint32_t>(merge.right));
  Slot& slot = slots_[slot_of(pair)];
  if (slot.pair != kEmpty) return false;
  slot = {pair, rank};
  merges_[rank] = merge;
  return true;
}

bool MergeTable::insert(uint32_t rank, Merge merge, uint32_t priority) {
  if (priorities_.empty()) priorities_.resize(merges_.size());
  priorities_[rank] = priority;
  return insert(rank, merge);
}

uint32_t MergeTable::rank_of(int32_t left, int32_t right) const {
  return slots_[slot_of(join(static_cast<uint32_t>(left), static_cast<uint32_t>(right)))].rank;
}

void merge_symbols(std::vector<int32_t>& symbols, const MergeTable& table) {
  constexpr size_t kLarge = 1 << 15;
  if (symbols.size() >= kLarge) {
    Merger<LargeQueue>(symbols, table).run(symbols);
  } else if (symbols.size() > 1) {
    Merger<SmallQueue>(symbols, table).run(symbols);
  }
}

}  // namespace liger::detail
