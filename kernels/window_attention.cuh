// What the passes of window attention share: which rows a block has, which keys a query sees, rows that are rotated on
// their way to shared memory, and the products of tiles.
//
// The query heads of one key/value head are rows of one matrix: row r of a sequence is head r % group of token
// r / group. A block takes a number of rows whatever the group's size.
#pragma once

#include "dispatch.cuh"
#include "rows.cuh"
#include "window_attention.h"

namespace liger::kernels {

constexpr float kLog2E = 1.44269504f;

/// Keys (or queries) of one stage: what makes two stages of rows, their partners and their angles fit beside the rest.
template <typename E, int D>
constexpr int kStreamed = D * sizeof(E) <= 256 ? 32 : 16;

/// What a block has of a sequence: `length` tokens from `begin` on, and its own rows from `first` on.
struct Part {
  int64_t sequence, begin;
  int length, first;
};
/// Blocks of `size` rows, of which each token has `per_token`, for any division of N tokens into sequences: sequence s
/// has the parts from part_index(its start, s, ...) on, as many as it needs or one more.
inline int64_t parts_of(int64_t N, int64_t sequences, int64_t per_token, int64_t size) {
  return N * per_token / size + sequences;
}
LIGER_DEVICE int64_t part_index(int64_t start, int64_t sequence, int64_t per_token, int64_t size) {
  return start * per_token / size + sequence;
}
template <typename Arguments>
LIGER_DEVICE int64_t start_of(const Arguments& p, int64_t sequence) {
  return p.starts ? p.starts[sequence] : p.N / p.sequences * sequence;
}
template <typename Arguments>
LIGER_DEVICE Part find_part(const Arguments& p, int64_t per_token, int64_t size) {
  int64_t s = 0, after = p.sequences;
  while (after - s > 1) {
    const int64_t middle = (s + after) / 2;
    const bool here = part_index(start_of(p, middle), middle, per_token, size) <= blockIdx.x;
    s = here ? middle : s;
    after = here ? after : middle;
  }
  const int64_t begin = start_of(p, s);
  return {s, begin, static_cast<int>(start_of(p, s + 1) - begin),
          static_cast<int>((blockIdx.x - part_index(begin, s, per_token, size)) * size)};
}

/// Query rows of a sequence: where they lie.
struct Queries {
  int64_t begin, H;
  int group, kv_head, rows;

  LIGER_DEVICE int token(int row) const { return row / group; }
  /// Of [N, H].
  LIGER_DEVICE int64_t at(int row) const {
    const int token = row / group;
    return (begin + token) * H + kv_head * group + (row - token * group);
  }
};
template <typename Arguments>
LIGER_DEVICE Queries queries_of(const Arguments& p, const Part& part) {
  const int group = static_cast<int>(p.H / p.Hkv);
  return {part.begin, p.H, group, static_cast<int>(blockIdx.y), part.length * group};
}

/// The keys low < position <= high that a query sees among those of the window or of the sinks.
struct Range {
  int low, high;
};
LIGER_DEVICE Range seen_from(int position, bool of_sinks, int window, int sinks) {
  if (!of_sinks) return {position - window, position};
  return {-1, position - window < sinks ? position - window : sinks - 1};
}

/// Keys that queries at positions first .. last see, in tiles: of sinks, then of the window.
template <int kKeys>
struct KeyTiles {
  int lowest, sink_tiles, count;

  LIGER_DEVICE KeyTiles(int first, int last, int window, int sinks) {
    const int visible = seen_from(last, true, window, sinks).high + 1;
    lowest = first - window + 1 > 0 ? first - window + 1 : 0;
    sink_tiles = visible > 0 ? (visible + kKeys - 1) / kKeys : 0;
    count = sink_tiles + (last - lowest) / kKeys + 1;
  }
  LIGER_DEVICE bool of_sinks(int tile) const { return tile < sink_tiles; }
  LIGER_DEVICE int position(int tile) const {
    return tile < sink_tiles ? tile * kKeys : lowest + (tile - sink_tiles) * kKeys;
  }
};

/// Sixteen bytes.
template <typename E>
struct alignas(16) Piece {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(E));
  E x[kSize];
};
template <typename E>
LIGER_DEVICE Piece<E> load_piece(const E* p) {
  return *reinterpret_cast<const Piece<E>*>(p);
}
template <typename E>
LIGER_DEVICE void store_piece(E* p, const Piece<E>& x) {
  *reinterpret_cast<Piece<E>*>(p) = x;
}

/// Pieces of both halves of a row, turned by their angles: cosines, then sines.
template <typename E>
LIGER_DEVICE void rotate(Piece<E>& x, Piece<E>& y, const Piece<float> (&angles)[2 * Piece<E>::kSize / 4]) {
  LIGER_UNROLL
  for (int i = 0; i < Piece<E>::kSize; ++i) {
    const float cos = angles[i / 4].x[i % 4], sin = angles[Piece<E>::kSize / 4 + i / 4].x[i % 4];
    const float a = to_float(x.x[i]), b = to_float(y.x[i]);
    round_to(a * cos - b * sin, x.x[i]);
    round_to(b * cos + a * sin, y.x[i]);
  }
}

/// Where a raw row lies that is to be rotated, its partner that is not (value, gradient), and its token's angles.
template <typename E>
struct RowSource {
  const E *raw, *partner;
  const float *cos, *sin;
  bool there;  ///< false: zeros
};

/// A token's key and value.
template <typename E, int D, typename Arguments>
LIGER_DEVICE RowSource<E> key_source(const Arguments& p, const Part& part, int token) {
  const bool there = token < part.length;
  const int64_t at = part.begin + (there ? token : 0), row = (at * p.Hkv + blockIdx.y) * D;
  return {static_cast<const E*>(p.k) + row, static_cast<const E*>(p.v) + row, p.cos + at * (D / 2),
          p.sin + at * (D / 2), there};
}
/// A row of queries, and the same one of `partner` [N, H, D].
template <typename E, int D, typename Arguments>
LIGER_DEVICE RowSource<E> query_source(const Arguments& p, const Queries& queries, int row, const void* partner) {
  const bool there = row < queries.rows;
  const int64_t at = queries.at(there ? row : 0) * D;
  const int64_t angles = (queries.begin + (there ? queries.token(row) : 0)) * (D / 2);
  return {static_cast<const E*>(p.q) + at, static_cast<const E*>(partner) + at, p.cos + angles, p.sin + angles, there};
}

/// A stage of rows on their way. What a thread copies it also rotates, before the barrier that shows it to the others.
template <typename E, int D, int kRows, int kThreads>
struct Stage {
  static constexpr int kRow = pitch(D, sizeof(E)), kEach = Piece<E>::kSize, kPieces = D / 2 / kEach;
  static constexpr int kItems = kRows * kPieces, kAngles = kEach / 4;

  alignas(16) E rotated[kRows * kRow];
  alignas(16) E partner[kRows * kRow];
  alignas(16) Piece<float> angles[2 * kAngles][kItems];

  /// Calls body(item, row, element) for this thread's: the pieces at `element` and at D / 2 + `element` of a row.
  template <typename Body>
  static LIGER_DEVICE void each_item(const Body& body) {
    for (int item = static_cast<int>(threadIdx.x); item < kItems; item += kThreads)
      body(item, item / kPieces, item % kPieces * kEach);
  }
  LIGER_DEVICE void fetch(int item, int row, int element, const RowSource<E>& from) {
    LIGER_UNROLL
    for (int at = element; at < D; at += D / 2) {
      copy_async(rotated + row * kRow + at, from.raw + at, from.there);
      copy_async(partner + row * kRow + at, from.partner + at, from.there);
    }
    LIGER_UNROLL
    for (int j = 0; j < kAngles; ++j) {
      copy_async(&angles[j][item], from.cos + element + 4 * j, from.there);
      copy_async(&angles[kAngles + j][item], from.sin + element + 4 * j, from.there);
    }
  }
  /// The same for rows of float32 that are rotated already: by a turn of nothing.
  LIGER_DEVICE void take(int item, int row, int element, const float* key, const float* value) {
    for (int at = element; at < D; at += D / 2)
      for (int i = at; i < at + kEach; ++i) {
        round_to(key[i], rotated[row * kRow + i]);
        round_to(value[i], partner[row * kRow + i]);
      }
    for (int j = 0; j < kAngles; ++j) {
      angles[j][item] = {{1, 1, 1, 1}};
      angles[kAngles + j][item] = {{0, 0, 0, 0}};
    }
  }
  LIGER_DEVICE void rotate_mine() {
    each_item([&](int item, int row, int element) {
      E *x = rotated + row * kRow + element, *y = x + D / 2;
      Piece<E> a = load_piece(x), b = load_piece(y);
      Piece<float> turn[2 * kAngles];
      LIGER_UNROLL
      for (int j = 0; j < 2 * kAngles; ++j) turn[j] = angles[j][item];
      rotate(a, b, turn);
      store_piece(x, a);
      store_piece(y, b);
    });
  }
};

/// kRows rows that stay, rotated, and their partners if `partner` is given, which arrive like asynchronous copies.
template <int D, int kRows, int kThreads, typename E, typename Source>
LIGER_DEVICE void load_rows(const Source& source, E* rotated, E* partner) {
  using S = Stage<E, D, kRows, kThreads>;
  S::each_item([&](int, int row, int element) {
    const RowSource<E> from = source(row);
    Piece<E> a = {}, b = {};
    if (from.there) {
      Piece<float> turn[2 * S::kAngles];
      LIGER_UNROLL
      for (int j = 0; j < S::kAngles; ++j) {
        turn[j] = load_piece(from.cos + element + 4 * j);
        turn[S::kAngles + j] = load_piece(from.sin + element + 4 * j);
      }
      a = load_piece(from.raw + element);
      b = load_piece(from.raw + D / 2 + element);
      rotate(a, b, turn);
    }
    const int at = row * S::kRow + element;
    store_piece(rotated + at, a);
    store_piece(rotated + at + D / 2, b);
    if (!partner) return;
    copy_async(partner + at, from.partner + element, from.there);
    copy_async(partner + at + D / 2, from.partner + D / 2 + element, from.there);
  });
}

/// c = a b^T: kTiles times 16 rows of a, 8 kColumns rows of b.
template <int D, int kTiles, int kColumns, typename E>
LIGER_DEVICE void multiply_rows(const E* a, const E* b, Accumulator (&c)[kTiles][kColumns]) {
  constexpr int kRow = pitch(D, sizeof(E));
  LIGER_UNROLL
  for (int m = 0; m < kTiles; ++m)
    LIGER_UNROLL
    for (int n = 0; n < kColumns; ++n) c[m][n] = {};
  LIGER_UNROLL
  for (int d = 0; d < D; d += 16) {
    OperandA<E> rows[kTiles];
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m) rows[m] = load_a(a + m * 16 * kRow + d, kRow);
    LIGER_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      const OperandB<E> column = load_b(b + n * 8 * kRow + d, kRow);
      LIGER_UNROLL
      for (int m = 0; m < kTiles; ++m) multiply_add(c[m][n], rows[m], column);
    }
  }
}

/// The 8-column tiles that one of kSplit warps has of D columns: of both halves, so that it can turn them back.
template <int D, int kSplit>
LIGER_DEVICE int column_of(int n, int split) {
  constexpr int kHalf = D / 16 / kSplit;
  return n < kHalf ? split * D / 2 / kSplit + n * 8 : D / 2 + split * D / 2 / kSplit + (n - kHalf) * 8;
}

/// c += w b: w, of accumulators, has kKeys columns, b as many rows.
template <int D, int kSplit, int kTiles, int kKeys, typename E>
LIGER_DEVICE void multiply_weights(const Accumulator (&w)[kTiles][kKeys / 8], const E* b, int split,
                                   Accumulator (&c)[kTiles][D / 8 / kSplit]) {
  constexpr int kRow = pitch(D, sizeof(E));
  LIGER_UNROLL
  for (int i = 0; i < kKeys / 16; ++i) {
    OperandA<E> a[kTiles];
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m)
      LIGER_UNROLL
      for (int j = 0; j < 4; ++j) {
        const float* x = w[m][2 * i + j / 2].x + j % 2 * 2;
        a[m].pair[j] = {rounded<E>(x[0]), rounded<E>(x[1])};
      }
    LIGER_UNROLL
    for (int n = 0; n < D / 8 / kSplit; ++n) {
      const OperandB<E> x = load_b_transposed(b + i * 16 * kRow + column_of<D, kSplit>(n, split), kRow);
      LIGER_UNROLL
      for (int m = 0; m < kTiles; ++m) multiply_add(c[m][n], a[m], x);
    }
  }
}

/// Why these sizes cannot run, for any of the passes; they share the names.
template <typename Arguments>
const char* window_sizes_refused(const Arguments& p) {
  if (p.D != 64 && p.D != 128 && p.D != 256) return "the size of a head must be 64, 128 or 256";
  if (p.window < 1 || p.sinks < 0) return "a window has at least one key, and sinks are not fewer than none";
  if (p.window > (1 << 24) || p.sinks > (1 << 24)) return "at most 2^24 keys in the window, and sinks";
  if (p.sequences < 0 || p.N < 0 || (!p.starts && p.sequences > 0 && p.N % p.sequences != 0))
    return "without starts all sequences have the same number of tokens";
  if (p.Hkv < 1 || p.Hkv > 65535) return "from 1 to 65535 key/value heads";
  return nullptr;
}
template <typename Arguments>
const char* window_queries_refused(const Arguments& p) {
  if (const char* reason = window_sizes_refused(p)) return reason;
  if (p.H < 1 || p.H % p.Hkv != 0) return "query heads must be a multiple of key/value heads";
  if ((p.N + p.window) * (p.H / p.Hkv) > INT32_MAX / 2) return "too many tokens at once";
  return nullptr;
}

}  // namespace liger::kernels
