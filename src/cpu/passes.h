// Forward and backward over the chunks of a sequence's heads. The backward pass needs the state before every chunk: the
// forward pass leaves one every kSegment tokens, and a segment's others are computed again when it is its turn.
//
// Heads of one token lie side by side in memory, so they take turns, a segment each: what one has brought near, pages
// and lines, serves the next.
#pragma once

#include <vector>

#include "cpu/arena.h"
#include "cpu/vec.h"

namespace liger {
namespace {

inline constexpr int64_t kSegment = 128, kSegmentChunks = kSegment / kChunk;
static_assert(kSegment % kChunk == 0);

inline int64_t segments(int64_t tokens) { return (tokens + kSegment - 1) / kSegment; }
inline int64_t chunk_tokens(int64_t tokens, int64_t first) { return tokens - first < kChunk ? tokens - first : kChunk; }

/// Run has states(), one block of state_scalars(), and checkpoints() for them, nullptr if not wanted; forward(first,
/// n); and expect(first, n), which tells Ahead about a chunk's rows.
template <typename Run>
void forward_pass(std::vector<Run>& runs, int64_t tokens, Ahead& ahead) {
  const auto expect = [&](size_t h, int64_t first) {
    if (first < tokens) runs[h].expect(first, chunk_tokens(tokens, first));
  };
  for (int64_t begin = 0; begin < tokens; begin += kSegment) {
    const int64_t end = begin + kSegment < tokens ? begin + kSegment : tokens;
    for (size_t h = 0; h < runs.size(); ++h) {
      const int64_t size = runs[h].state_scalars();
      if (auto* to = runs[h].checkpoints()) store_row(runs[h].states(), size, to + begin / kSegment * size);
      for (int64_t first = begin; first < end; first += kChunk) {
        ahead.start();
        if (first + kChunk < end)
          expect(h, first + kChunk);
        else if (h + 1 < runs.size())
          expect(h + 1, begin);
        else
          expect(0, end);
        runs[h].forward(first, chunk_tokens(tokens, first));
      }
    }
  }
}

/// Run has advance(first, n, states before, states after), the states alone; backward(first, n, states before);
/// state_scalars() and checkpoints(), as they were left; and expect_advance(), expect_backward() of their rows.
/// `starts` has room for the states before all chunks of a segment but the first.
template <typename T, typename Run>
void backward_pass(std::vector<Run>& runs, int64_t tokens, T* starts, Ahead& ahead) {
  const int64_t size = runs.front().state_scalars();
  for (int64_t segment = segments(tokens) - 1; segment >= 0; --segment) {
    const int64_t begin = segment * kSegment, left = tokens - begin < kSegment ? tokens - begin : kSegment;
    const int64_t last = (left - 1) / kChunk;
    for (Run& run : runs) {
      const auto before = [&](int64_t chunk) {
        return chunk == 0 ? run.checkpoints() + segment * size : starts + (chunk - 1) * size;
      };
      const auto expect_backward = [&](int64_t chunk) {
        const int64_t first = begin + chunk * kChunk;
        if (chunk >= 0) run.expect_backward(first, chunk_tokens(tokens, first));
      };
      for (int64_t chunk = 0; chunk < last; ++chunk) {
        const int64_t first = begin + chunk * kChunk;
        ahead.start();
        if (chunk + 1 < last)
          run.expect_advance(first + kChunk, kChunk);
        else
          expect_backward(last);
        run.advance(first, kChunk, before(chunk), starts + chunk * size);
      }
      for (int64_t chunk = last; chunk >= 0; --chunk) {
        const int64_t first = begin + chunk * kChunk;
        ahead.start();
        expect_backward(chunk - 1);
        run.backward(first, chunk_tokens(tokens, first), before(chunk));
      }
    }
  }
}

/// [rows][columns] <-> the same with rows of `row` values.
template <typename T>
void load_matrix(const T* from, int64_t rows, int64_t columns, T* to, int64_t row) {
  const size_t bytes = sizeof(T) * static_cast<size_t>(columns);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * row, from + r * columns, bytes);
}
template <typename T>
void store_matrix(const T* from, int64_t row, int64_t rows, int64_t columns, T* to) {
  const size_t bytes = sizeof(T) * static_cast<size_t>(columns);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * columns, from + r * row, bytes);
}

}  // namespace
}  // namespace liger
