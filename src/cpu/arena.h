// Scratch memory of one kernel call: the same constructors count what they need and then take it.
#pragma once

#include <cstdint>

#include "cpu/ahead.h"

namespace liger {
namespace {

/// Hands out consecutive 64-byte aligned pieces of `memory`, which the caller has aligned to 64 bytes. With
/// null memory it only counts: every piece is null, and bytes() says how much memory the same calls will take.
class Arena {
 public:
  explicit Arena(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t n) {
    T* piece = memory_ ? reinterpret_cast<T*>(memory_ + bytes_) : nullptr;
    bytes_ += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

/// What the heads of one job work with.
struct Workspace {
  Arena own;  ///< a head's alone from chunk to chunk
  /// Of the head whose turn it is, laid out alike for all: zeroed before the first, dirty after. So a run leaves alone
  /// what it counts on being zero.
  Arena shared;
  Ahead& ahead;
};

}  // namespace
}  // namespace liger
