// Forward and backward over the chunks of a sequence. The backward pass needs the state before every chunk: the forward
// pass leaves one every kSegment tokens, and a segment's others are computed again when it is its turn.
#pragma once

#include "cpu/arena.h"
#include "cpu/vec.h"

namespace liger {
namespace {

inline constexpr int64_t kSegment = 128, kSegmentChunks = kSegment / kChunk;

inline int64_t segments(int64_t tokens) { return (tokens + kSegment - 1) / kSegment; }
inline int64_t chunk_tokens(int64_t tokens, int64_t first) {
  return tokens - first < kChunk ? tokens - first : kChunk;
}

/// Run has states() (one block of `state_scalars()` values), forward(first, n); the checkpoints may be nullptr.
template <typename T, typename Run>
void forward_pass(Run& run, int64_t tokens, T* checkpoints) {
  const size_t bytes = sizeof(T) * static_cast<size_t>(run.state_scalars());
  for (int64_t first = 0; first < tokens; first += kChunk) {
    if (checkpoints && first % kSegment == 0)
      std::memcpy(checkpoints + first / kSegment * run.state_scalars(), run.states(), bytes);
    run.forward(first, chunk_tokens(tokens, first));
  }
}

/// Run has advance(first, n), the states alone, and backward(first, n, states before the chunk).
/// `starts` has room for kSegmentChunks states.
template <typename T, typename Run>
void backward_pass(Run& run, int64_t tokens, const T* checkpoints, T* starts) {
  const int64_t size = run.state_scalars();
  const size_t bytes = sizeof(T) * static_cast<size_t>(size);
  for (int64_t segment = segments(tokens) - 1; segment >= 0; --segment) {
    const int64_t begin = segment * kSegment, end = tokens - begin < kSegment ? tokens : begin + kSegment;
    std::memcpy(run.states(), checkpoints + segment * size, bytes);
    for (int64_t first = begin; first < end; first += kChunk) {
      std::memcpy(starts + (first - begin) / kChunk * size, run.states(), bytes);
      if (first + kChunk < end) run.advance(first, chunk_tokens(tokens, first));
    }
    for (int64_t first = begin + (end - 1 - begin) / kChunk * kChunk; first >= begin; first -= kChunk)
      run.backward(first, chunk_tokens(tokens, first), starts + (first - begin) / kChunk * size);
  }
}

/// Asks for n rows of `size` values that will be read soon. A head's rows lie pages apart, where the processor does not
/// see them coming.
template <typename E>
void prefetch_rows(const E* rows, int64_t n, int64_t stride, int64_t size) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t at = 0; at < size; at += 64 / static_cast<int64_t>(sizeof(E)))
      __builtin_prefetch(rows + i * stride + at);
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
