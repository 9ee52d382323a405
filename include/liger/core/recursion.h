#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace liger {

/// Which stored layer ("slot") runs at which depth (arXiv 2410.20672, fig. B.1; the middle ones: arXiv 2507.10524,
/// table 5, where the first and the last depth keep layers of their own).
enum class Sharing {
  kCycle,           ///< depths 0 1 2 3 4 5 run slots 0 1 2 0 1 2
  kSequence,        ///< 0 0 1 1 2 2
  kMiddleCycle,     ///< 0, 1 2 1 2, 3
  kMiddleSequence,  ///< 0, 1 1 2 2, 3
};
const char* to_string(Sharing sharing);  ///< "cycle", "sequence", "middle-cycle", "middle-sequence"
/// Throws Error(kUsage) with a list of the names for others.
Sharing sharing_from_name(const std::string& name);

/// Layers that run several times, each time ("depth") with an adapter of its own: a Relaxed Recursive Transformer.
struct Recursion {
  int64_t loops = 2;  ///< how often a shared layer runs; 2 or more
  Sharing sharing = Sharing::kCycle;
  /// Every depth has norms of its own, which the adapter holds; else they are the slot's.
  bool depth_norms = false;
  /// The same of linear modules' biases, which no pair of an adapter can change.
  bool depth_biases = false;
  bool adapter = false;  ///< the model's folder brings an adapter along, without which it is another model

  bool operator==(const Recursion&) const = default;

  /// The first and the last depth run layers that no other depth does.
  bool keeps_ends() const { return sharing == Sharing::kMiddleCycle || sharing == Sharing::kMiddleSequence; }
  /// Loops run one after the other, each through all shared layers: exits lie between them.
  bool runs_in_loops() const { return sharing == Sharing::kCycle || sharing == Sharing::kMiddleCycle; }
  int64_t depths(int64_t slots) const { return keeps_ends() ? 2 + (slots - 2) * loops : slots * loops; }
  /// Of so many depths; they must divide.
  int64_t slots(int64_t depths) const { return keeps_ends() ? 2 + (depths - 2) / loops : depths / loops; }
  int64_t slot(int64_t depth, int64_t depths) const;
  /// The depth that ends each loop, where loops run one after the other; else none. The last depth of all, where it is
  /// not shared, belongs to no loop and runs after any of them.
  std::vector<int64_t> loop_ends(int64_t depths) const;
  /// Why so many depths cannot be shared like this, and what could; "" if they can.
  std::string refuses(int64_t depths) const;

  /// PEFT's "layer_replication" of a model of these depths: ranges [first, last) of stored layers, one after the other.
  std::vector<std::pair<int64_t, int64_t>> replication(int64_t depths) const;
};

}  // namespace liger
