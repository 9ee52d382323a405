// Rows of a sequence on their way from global to shared memory.
#pragma once

#include "tile.cuh"

namespace liger::kernels {

/// The most shared memory a kernel here asks for: what a block can have from sm_80 on (the A100; sm_90 has 227 KiB).
constexpr int kSharedLimit = 163 * 1024;

/// Elements between the rows of a tile with n columns (a multiple of 64): a row further is four banks further, so that
/// the eight rows that a warp reads at once do not meet.
constexpr int pitch(int n, int size) { return n + 16 / size; }

/// Starts the copies of kRows rows of n elements, `stride` elements apart in global memory, by all kThreads threads:
/// rows first .. of `from`, zeros from row `end` on. Addresses of rows past the end are not formed: row `begin` is there.
template <int kRows, int kThreads, typename T>
LIGER_DEVICE void fetch_rows(const T* from, int64_t first, int64_t begin, int64_t end, int64_t stride, int n, T* to,
                             int row) {
  const int pieces = n * static_cast<int>(sizeof(T)) / 16, each = 16 / static_cast<int>(sizeof(T));
  for (int piece = static_cast<int>(threadIdx.x); piece < kRows * pieces; piece += kThreads) {
    const int i = piece / pieces, at = piece % pieces * each;
    const bool there = first + i < end;
    copy_async(to + i * row + at, from + (there ? first + i : begin) * stride + at, there);
  }
}

}  // namespace liger::kernels
