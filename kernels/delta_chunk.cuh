// What both passes of the delta rule's scan make of 16 tokens before their values come in, and the state they hold.
//
// With P_i = a_0 ... a_i and R_j = a_{j+1} ... a_15 inside those 16: q P, k P and k R; for every query head the scores
// A_ij = q_i . (k_j a_{j+1} ... a_i), j <= i; and for the keys as queries the same, L, j < i, with the inverse of the
// unit triangular matrix they make. Nothing but g itself is exponentiated and decays are only multiplied, so that any
// g <= 0 is exact. Scores come from one small product for each bit of a token's number: a query and a key whose highest
// differing bit is that one meet where it changes, so that each side is scaled by decays on its own side alone.
#pragma once

#include "delta_scan.h"
#include "diagonal_pass.cuh"

namespace liger::kernels::delta {

constexpr int kSolveRow = pitch(kTokens, sizeof(float));

/// Where a chunk's rows lie in shared memory: as they arrive, then as features with log-decays and strengths.
template <typename E>
struct Rows {
  E *q, *k;  ///< [heads][16][pitch(K)], [16][pitch(K)]
  float* g;  ///< [16][K + 4]
  float* b;  ///< [16]
};

/// What is made of them. Wide rows of floats leave room for half the bits at a time.
template <typename E, int K, int kHeads>
struct Prepared {
  static constexpr int kRow = pitch(K, sizeof(E)), kScoreRow = pitch(kTokens, sizeof(E));
  static constexpr int kBitsAtOnce = K * sizeof(E) > 512 ? kBits / 2 : kBits;

  alignas(16) E readers[(kHeads + 1) * kTokens * kRow];  ///< q P of each head, then k P
  alignas(16) E kR[kTokens * kRow];
  /// Those whose number has the bit, scaled from where it begins: of each head, then of the keys.
  alignas(16) E queries[kBitsAtOnce][(kHeads + 1) * kHalf * kRow];
  alignas(16) E keys[kBitsAtOnce][kHalf * kRow];  ///< those whose number has not, scaled to where it begins
  alignas(16) E A[kHeads * kTokens * kScoreRow];
  alignas(16) float L[kTokens * kSolveRow];
  alignas(16) float inverse[kTokens * kSolveRow];  ///< of 1 + L diag(b), or of 1 + diag(b) L
  alignas(16) float whole[K];                      ///< P_15
};

/// Which side of L the strengths are on.
enum class Strengths { kOfColumns, kOfRows };

template <typename E, int K, int kHeads, int kWarps, Strengths kStrengths>
class Chunk {
  using P = Prepared<E, K, kHeads>;
  static constexpr int kThreads = 32 * kWarps, kRow = P::kRow, kDecayRow = K + 4, kScoreRow = P::kScoreRow;
  static constexpr int kBitsAtOnce = P::kBitsAtOnce;

 public:
  LIGER_DEVICE Chunk(const DeltaScan& p, P& shared, int64_t kv_head) : p_(p), s_(shared), kv_head_(kv_head) {
    begin_ = p.starts ? p.starts[blockIdx.z] : blockIdx.z * p.T;
    end_ = p.starts ? p.starts[blockIdx.z + 1] : begin_ + p.T;
    warp_ = static_cast<int>(threadIdx.x) / 32;
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * kTokens * kScoreRow; i += kThreads)
      round_to(0.0f, s_.A[i]);  // right of the diagonal it stays so
  }
  LIGER_DEVICE int64_t begin() const { return begin_; }
  LIGER_DEVICE int64_t end() const { return end_; }
  LIGER_DEVICE int warp() const { return warp_; }

  /// Starts the copies of n elements of each of 16 rows.
  template <typename T>
  LIGER_DEVICE void fetch(const T* from, int64_t first, int64_t stride, int n, T* to, int row) const {
    fetch_rows<kTokens, kThreads>(from, first, begin_, end_, stride, n, to, row);
  }
  LIGER_DEVICE void fetch_queries(const Rows<E>& rows, int64_t first, int64_t head) const {
    const E* q = static_cast<const E*>(p_.q);
    for (int h = 0; h < kHeads; ++h)
      fetch(q + (head + h) * K, first, p_.H * K, K, rows.q + h * kTokens * kRow, kRow);
  }
  LIGER_DEVICE void fetch_keys(const Rows<E>& rows, int64_t first) const {
    fetch(static_cast<const E*>(p_.k) + kv_head_ * K, first, p_.Hkv * K, K, rows.k, kRow);
    if (p_.features.raw) return;
    fetch(p_.g + kv_head_ * K, first, p_.Hkv * K, K, rows.g, kDecayRow);
    if (threadIdx.x < kTokens) {
      const int64_t token = first + threadIdx.x;
      const bool there = token < end_;
      copy_float_async(rows.b + threadIdx.x, p_.b + (there ? token : begin_) * p_.Hkv + kv_head_, there);
    }
  }

  /// Raw rows to features, and keys to log-decays and strengths, a row a warp. Rows past the end stay 0 and do not
  /// decay.
  LIGER_DEVICE void make_features(const Rows<E>& rows, int64_t first, bool with_keys) const {
    const Features& f = p_.features;
    for (int row = warp_ + (with_keys ? 0 : kTokens); row < kTokens * (1 + kHeads); row += kWarps) {
      const bool is_key = row < kTokens;
      const bool there = first + row % kTokens < end_;
      E* at = (is_key ? rows.k + row * kRow : rows.q + (row - kTokens) * kRow) + lane();
      float x[K / 32];
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) x[c] = to_float(at[32 * c]);
      if (is_key) {
        float* g = rows.g + row * kDecayRow + lane();
        const float mean = sum_of_row(x) / K;
        LIGER_UNROLL
        for (int c = 0; c < K / 32; ++c) g[32 * c] = there ? log_decay(f, f.per_channel ? x[c] : mean, kv_head_) : 0;
        if (lane() == 0) rows.b[row] = there ? 1 / (1 + expf(-mean)) : 0;
      }
      make_feature(is_key ? f.key : f.query, x);
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) put(at + 32 * c, there ? x[c] : 0);
    }
  }

  /// Features to everything in Prepared; what the keys alone decide stays as it is unless `with_keys`. Barriers inside,
  /// but for one after it, which `inverse` and A need: the rest is there.
  LIGER_DEVICE void prepare(const Rows<E>& rows, bool with_keys) {
    LIGER_UNROLL
    for (int first_bit = 0; first_bit < kBits; first_bit += kBitsAtOnce) {
      if (first_bit > 0) __syncthreads();
      for (int d = StepDecays::channel(); d < K; d += kThreads / 2) scale(rows, with_keys, first_bit, d);
      __syncthreads();
      scores(rows, with_keys, first_bit);
    }
    if (with_keys && warp_ == 0) {
      sync_warp();
      invert();
    }
  }

 private:
  static LIGER_DEVICE int half() { return StepDecays::half(); }
  static LIGER_DEVICE void put(E* to, float x) { round_to(x, *to); }

  // With them, products from or to where a bit of the token's number changes.
  struct Decays : StepDecays {
    float of_bit[3][kHalf];
    LIGER_DEVICE explicit Decays(const float* g) : StepDecays(g, kDecayRow) {
      LIGER_UNROLL
      for (int bit = 0; bit < 3; ++bit) {
        const int size = 1 << bit;
        LIGER_UNROLL
        for (int i = 0; i < kHalf; ++i) {
          of_bit[bit][i] = 1;
          LIGER_UNROLL
          for (int j = i & size ? i & ~(size - 1) : i + 1; j <= (i & size ? i : i | (size - 1)); ++j)
            of_bit[bit][i] *= a[j];
        }
      }
    }
  };

  // Everything that is scaled with the decays of channel d, for the eight tokens of this thread's half.
  LIGER_DEVICE void scale(const Rows<E>& rows, bool with_keys, int first_bit, int d) {
    const int base = half() * kHalf;
    const Decays x(rows.g + base * kDecayRow + d);
    if (first_bit == 0 && half() == 0) s_.whole[d] = x.whole();
    for (int h = 0; h < kHeads + (with_keys ? 1 : 0); ++h) {
      const E* q = (h < kHeads ? rows.q + h * kTokens * kRow : rows.k) + base * kRow + d;
      scale_query(q, x, first_bit, s_.readers + (h * kTokens + base) * kRow + d, h * kHalf * kRow + d);
    }
    scale_key(rows.k + base * kRow + d, x, first_bit, s_.kR + base * kRow + d, d);
  }
  // The highest bit is that of the half: its queries lie in the second, its keys in the first.
  LIGER_DEVICE void scale_query(const E* q, const Decays& x, int first_bit, E* reader, int at) {
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      const float query = to_float(q[i * kRow]);
      if (first_bit == 0) put(reader + i * kRow, query * x.to_here[i] * x.before);
      LIGER_UNROLL
      for (int bit = first_bit; bit < first_bit + kBitsAtOnce; ++bit) {
        E* to = s_.queries[bit - first_bit] + at;
        if (bit == 3) {
          if (half() == 1) put(to + i * kRow, query * x.to_here[i]);
        } else if (i >> bit & 1) {
          put(to + row_of(bit, i) * kRow, query * x.of_bit[bit % 3][i]);
        }
      }
    }
  }
  LIGER_DEVICE void scale_key(const E* k, const Decays& x, int first_bit, E* kR, int at) {
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      const float key = to_float(k[i * kRow]);
      if (first_bit == 0) put(kR + i * kRow, key * x.from_here[i] * x.after);
      LIGER_UNROLL
      for (int bit = first_bit; bit < first_bit + kBitsAtOnce; ++bit) {
        E* to = s_.keys[bit - first_bit] + at;
        if (bit == 3) {
          if (half() == 0) put(to + i * kRow, key * x.from_here[i]);
        } else if (!(i >> bit & 1)) {
          put(to + row_of(bit, i) * kRow, key * x.of_bit[bit % 3][i]);
        }
      }
    }
  }
  // The row of this half's token i among the queries, or the keys, of a bit below the highest.
  LIGER_DEVICE int row_of(int bit, int i) const {
    const int size = 1 << bit;
    return ((half() * kHalf + i) >> (bit + 1)) * size + (i & (size - 1));
  }

  // A, a warp for each bit of each head and for the diagonal; beside them the first warp's L.
  LIGER_DEVICE void scores(const Rows<E>& rows, bool with_keys, int first_bit) {
    if (with_keys && warp_ == 0) {
      scores_of_keys(rows, first_bit);
      return;
    }
    constexpr int kJobs = kBitsAtOnce + 1;
    const int others = with_keys ? 1 : 0;
    for (int job = warp_ - others; job < kHeads * kJobs; job += kWarps - others) {
      const int h = job / kJobs, n = job % kJobs;
      E* A = s_.A + h * kTokens * kScoreRow;
      if (n == kBitsAtOnce) {
        if (first_bit == 0) diagonal(rows.q + h * kTokens * kRow, rows.k, A);
      } else {
        Accumulator c;
        for (int d = 0; d < K; d += 16) multiply_half(c, s_.queries[n] + h * kHalf * kRow + d, s_.keys[n] + d);
        each_score(first_bit + n, c, [&](int i, int j, float x) { put(A + i * kScoreRow + j, x); });
      }
    }
  }
  LIGER_DEVICE void diagonal(const E* q, const E* k, E* A) {
    Accumulator c[2];
    for (int d = 0; d < K; d += 16) {
      const OperandA<E> a = load_a(q + d, kRow);
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n) multiply_add(c[n], a, load_b(k + n * 8 * kRow + d, kRow));
    }
    const int g = lane_row(), t = lane_column();
    LIGER_UNROLL
    for (int e = 0; e < 2; ++e) {
      if (g != t + e) continue;
      put(A + g * kScoreRow + g, c[0].x[e]);
      put(A + (g + 8) * kScoreRow + g + 8, c[1].x[2 + e]);
    }
  }
  LIGER_DEVICE void scores_of_keys(const Rows<E>& rows, int first_bit) {
    Accumulator c[kBitsAtOnce];
    for (int d = 0; d < K; d += 16)
      LIGER_UNROLL
      for (int n = 0; n < kBitsAtOnce; ++n)
        multiply_half(c[n], s_.queries[n] + kHeads * kHalf * kRow + d, s_.keys[n] + d);
    LIGER_UNROLL
    for (int n = 0; n < kBitsAtOnce; ++n)
      each_score(first_bit + n, c[n], [&](int i, int j, float x) {
        s_.L[i * kSolveRow + j] = x * rows.b[kStrengths == Strengths::kOfColumns ? j : i];
      });
  }
  // Eight queries and eight keys, 16 channels; the lower half of the tile's rows is zero.
  static LIGER_DEVICE void multiply_half(Accumulator& c, const E* q, const E* k) {
    const E* row = q + lane_row() * kRow + lane_column();
    const Pair<E> zero = {rounded<E>(0), rounded<E>(0)};
    multiply_add(c, OperandA<E>{{load_pair(row), zero, load_pair(row + 8), zero}}, load_b(k, kRow));
  }
  // What a tile of a bit's queries and keys says of tokens i and j.
  template <typename Body>
  static LIGER_DEVICE void each_score(int bit, const Accumulator& c, const Body& body) {
    const int size = 1 << bit;
    LIGER_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int query = lane_row(), key = lane_column() + e;
      if (query >> bit != key >> bit) continue;  // of different pairs of blocks
      const int above = (query >> bit) << (bit + 1);
      body(above + size + (query & (size - 1)), above + (key & (size - 1)), c.x[e]);
    }
  }
  // By forward substitution; lane j has column j.
  LIGER_DEVICE void invert() {
    const int j = lane() % kTokens;
    float x[kTokens];
    LIGER_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      x[i] = i == j ? 1 : 0;
      LIGER_UNROLL
      for (int m = 0; m < i; m += 2) {
        const Pair<float> factor = load_pair(s_.L + i * kSolveRow + m);
        x[i] -= factor.x * x[m];
        if (m + 1 < i) x[i] -= factor.y * x[m + 1];
      }
      if (lane() < kTokens) s_.inverse[i * kSolveRow + j] = x[i];
    }
  }

  const DeltaScan& p_;
  P& s_;
  int64_t kv_head_, begin_, end_;
  int warp_;
};

/// Two tiles side by side as an operand [16, 16].
template <typename E>
LIGER_DEVICE OperandA<E> as_a(const Accumulator& left, const Accumulator& right) {
  const auto pair = [](const Accumulator& c, int e) { return Pair<E>{rounded<E>(c.x[e]), rounded<E>(c.x[e + 1])}; };
  return {{pair(left, 0), pair(left, 2), pair(right, 0), pair(right, 2)}};
}
/// Rows 8 n .. of them, turned: an operand [16, 8].
template <typename E>
LIGER_DEVICE OperandB<E> as_b(const OperandA<E>& turned, int n) {
  return {{turned.pair[n], turned.pair[n + 2]}};
}

/// Sixteen columns of a state [K, V] a warp, turned: rows of an accumulator [16, K].
template <int K>
struct State {
  Accumulator tile[K / 8];

  /// Element e of tile n is row (channel) n * 8 + lane_column() + e % 2 of the state, column lane_row() + e / 2 * 8.
  template <typename Body>
  LIGER_DEVICE void each(int64_t V, const Body& body) {
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e)
        body(tile[n].x[e], (n * 8 + lane_column() + e % 2) * V + lane_row() + e / 2 * 8);
  }
  LIGER_DEVICE void load(const float* from, int64_t V) {
    each(V, [&](float& x, int64_t at) { x = from[at]; });
  }
  LIGER_DEVICE void store(float* to, int64_t V) {
    each(V, [&](float& x, int64_t at) { to[at] = x; });
  }
  /// Channels 16 d .. 16 d + 15.
  template <typename E>
  LIGER_DEVICE OperandA<E> channels(int d) const {
    return as_a<E>(tile[2 * d], tile[2 * d + 1]);
  }
  LIGER_DEVICE void decay(const float* whole) {
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n) {
      const Pair<float> factor = load_pair(whole + n * 8 + lane_column());
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) tile[n].x[e] *= e % 2 == 0 ? factor.x : factor.y;
    }
  }
  /// Adds rows^T values: `values` [16 columns, 16 tokens], rows of the tokens.
  template <typename E>
  LIGER_DEVICE void add(const OperandA<E>& values, const E* rows) {
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n)
      multiply_add(tile[n], values, load_b_transposed(rows + n * 8, pitch(K, sizeof(E))));
  }
};

/// [16 columns, 16 tokens] times the inverse, or its transpose, in float32's precision.
template <bool kTransposed>
LIGER_DEVICE void solve(const Accumulator (&in)[2], const float* inverse, Accumulator (&out)[2]) {
  const OperandA<float> a = as_a<float>(in[0], in[1]);
  LIGER_UNROLL
  for (int n = 0; n < 2; ++n) {
    if constexpr (kTransposed) {
      multiply_add(out[n], a, load_b(inverse + n * 8 * kSolveRow, kSolveRow));
    } else {
      multiply_add(out[n], a, load_b_transposed(inverse + n * 8, kSolveRow));
    }
  }
}

/// Calls run(Size<heads>()) with as many query heads of a group together, of 4, 2 and 1, as divide it and fit.
template <template <int> class Layout, int kHeads = 4, typename Run>
const char* for_heads(int64_t group, const Run& run) {
  if constexpr (kHeads == 1) {
    return run(Size<1>());
  } else {
    if constexpr (sizeof(Layout<kHeads>) <= kSharedLimit)
      if (group % kHeads == 0) return run(Size<kHeads>());
    return for_heads<Layout, kHeads / 2>(group, run);
  }
}

inline const char* refuses(const DeltaScan& p) {
  if (p.K != 64 && p.K != 128 && p.K != 256) return "the size of a key must be 64, 128 or 256";
  if (p.V < 1 || p.V % delta_scan_columns(p.K) != 0)
    return p.K == 64 ? "with keys of 64 the size of a value must be a multiple of 64"
                     : "with keys of 128 or 256 the size of a value must be a multiple of 128";
  if (p.Hkv < 1 || p.H % p.Hkv != 0) return "query heads must be a multiple of key/value heads";
  if (p.H > 65535 || p.sequences > 65535) return "at most 65535 query heads and sequences";
  return nullptr;
}

}  // namespace liger::kernels::delta
