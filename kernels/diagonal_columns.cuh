// Passes whose readers sum over the rows of a state: the outputs o (forward in time) and d_v (backward).
//
// A block of threads owns a slice of V's columns of one state, which never leaves its registers. A comes from one
// small product for each bit of a token's number: queries and keys whose highest differing bit is that one meet where
// it changes, so that each side is scaled by decays on its own side alone.
//
// Raw projections become features and log-decays where they arrive in shared memory: no gate tensor exists.
//
// Each warp holds 16 columns of the state, turned: as rows of an accumulator [16, K], whose registers are at once those
// of the operand S of q S. Loops over K, V and heads are unrolled; registers are the limit.
#pragma once

#include "diagonal_pass.cuh"

namespace liger::kernels {

/// Shared memory. Two stages of raw rows: those in use, and the next step's on their way.
template <typename E, int K, int kHeads, int kWarps, bool kForward>
struct ColumnsLayout {
  static constexpr int kStages = sizeof(E) == 4 ? 1 : 2, kColumns = 16 * kWarps;
  static constexpr int kRow = pitch(K, sizeof(E)), kValueRow = pitch(kColumns, sizeof(E)), kDecayRow = K + 4;
  static constexpr int kScoreRow = pitch(kTokens, sizeof(E));
  static constexpr int kWriters = kForward ? 1 : kHeads;  ///< what writes columns: v, or d_o of each head

  struct Raw {
    alignas(16) E q[kHeads * kTokens * kRow];
    alignas(16) E k[kTokens * kRow];
    alignas(16) E columns[kWriters * kTokens * kValueRow];
    alignas(16) float g[kTokens * kDecayRow];
  };
  Raw raw[kStages];
  alignas(16) E qP[kHeads * kTokens * kRow];
  alignas(16) E kR[kTokens * kRow];
  alignas(16) E queries[kBits][kHeads * kHalf * kRow];  ///< those whose number has the bit, scaled from where it begins
  alignas(16) E keys[kBits][kHalf * kRow];              ///< those whose number has not, scaled to where it begins
  alignas(16) E A[kHeads * kTokens * kScoreRow];
  alignas(16) float whole[K];  ///< P_15
};

/// kReads: false for a pass that only makes the states of its parts.
template <typename E, int K, int kHeads, int kWarps, bool kForward, bool kReads>
class Columns {
  using L = ColumnsLayout<E, K, kHeads, kWarps, kForward>;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kOutputs = kForward ? kHeads : 1;

 public:
  LIGER_DEVICE Columns(const DiagonalPass& pass, L& shared) : pass_(pass), p_(pass.scan), s_(shared), place_(p_) {
    const int group = static_cast<int>(p_.H / p_.Hkv);
    // Forward, each block has its own heads; backward, all heads of a group write the same state, in turn.
    const int blocks_of_group = kForward && kReads ? group / kHeads : 1;
    kv_head_ = blockIdx.y / blocks_of_group;
    head_ = kForward && kReads ? static_cast<int64_t>(blockIdx.y) * kHeads : kv_head_ * group;
    turns_ = kForward ? 1 : group / kHeads;
    writes_state_ = blockIdx.y % blocks_of_group == 0;
    column_ = static_cast<int64_t>(blockIdx.x) * L::kColumns;
    warp_ = static_cast<int>(threadIdx.x) / 32;
  }

  LIGER_DEVICE void run() {
    load_state();
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * kTokens * L::kScoreRow; i += kThreads)
      round_to(0.0f, s_.A[i]);  // right of the diagonal it stays so
    const int64_t steps = place_.steps(), rounds = steps * turns_;
    float decay[kDecaysOfThread];
    LIGER_UNROLL
    for (int i = 0; i < kDecaysOfThread; ++i) decay[i] = 1;
    if (rounds > 0) fetch(0, 0);
    int stage = 0;
    Accumulator o[kOutputs][2];
    for (int64_t round = 0; round < rounds; ++round) {
      wait_for_copies<0>();
      __syncthreads();
      if (L::kStages == 2 && round + 1 < rounds) fetch(round + 1, stage ^ 1);
      typename L::Raw& raw = s_.raw[stage];
      const int64_t first = first_token(round), turn = round % turns_;
      if (p_.features.raw) {
        make_features<K, kTokens, kWarps, L::kRow, L::kDecayRow>(p_.features, kv_head_,
                                                                 static_cast<int>(smaller(place_.end - first, kTokens)),
                                                                 raw.k, raw.g, raw.q, kReads || !kForward ? kHeads : 0);
        __syncthreads();
      }
      for (int d = StepDecays::channel(); d < K; d += kThreads / 2) scale(raw, d);
      __syncthreads();
      if constexpr (kReads) {
        scores(raw);
        if (turn == 0) read_state(o);
      }
      if (!kReads && turn == 0) {
        LIGER_UNROLL
        for (int i = 0; i < kDecaysOfThread; ++i)
          if (const int d = static_cast<int>(threadIdx.x) + i * kThreads; d < K) decay[i] *= s_.whole[d];
      }
      write_state(raw, turn == 0);
      if constexpr (kReads) {
        __syncthreads();
        read_chunk(raw, o);
        if (turn == turns_ - 1) store(o, first);
      }
      if (L::kStages == 1) {
        __syncthreads();
        if (round + 1 < rounds) fetch(round + 1, 0);
      } else {
        stage ^= 1;
      }
    }
    finish(decay);
  }

 private:
  static constexpr int kDecaysOfThread = (K + kThreads - 1) / kThreads;

  LIGER_DEVICE int64_t first_token(int64_t round) const {
    const int64_t step = round / turns_;
    return place_.begin + kTokens * (kForward ? step : place_.steps() - 1 - step);
  }

  template <typename T>
  LIGER_DEVICE void fetch(const T* from, int64_t first, int64_t stride, int n, T* to, int row) const {
    fetch_rows<kTokens, kThreads>(from, first, place_.begin, place_.end, stride, n, to, row);
  }
  LIGER_DEVICE void fetch(int64_t round, int stage) {
    typename L::Raw& raw = s_.raw[stage];
    const int64_t first = first_token(round), head = head_ + round % turns_ * kHeads;
    const E *q = static_cast<const E*>(p_.q), *k = static_cast<const E*>(p_.k);
    if constexpr (kReads || !kForward)
      for (int h = 0; h < kHeads; ++h)
        fetch(q + (head + h) * K, first, p_.H * K, K, raw.q + h * kTokens * L::kRow, L::kRow);
    fetch(k + kv_head_ * K, first, p_.Hkv * K, K, raw.k, L::kRow);
    if constexpr (kForward) {
      fetch(static_cast<const E*>(p_.v) + kv_head_ * p_.V + column_, first, p_.Hkv * p_.V, L::kColumns, raw.columns,
            L::kValueRow);
    } else {
      for (int h = 0; h < kHeads; ++h)
        fetch(static_cast<const E*>(pass_.d_o) + (head + h) * p_.V + column_, first, p_.H * p_.V, L::kColumns,
              raw.columns + h * kTokens * L::kValueRow, L::kValueRow);
    }
    if (!p_.features.raw) fetch(p_.g + kv_head_ * K, first, p_.Hkv * K, K, raw.g, L::kDecayRow);
    close_copies();
  }

  // Everything that is scaled with the decays of channel d, for the eight tokens of this thread's half.
  LIGER_DEVICE void scale(const typename L::Raw& raw, int d) {
    const int half = StepDecays::half(), base = half * kHalf;
    const StepDecays decays(raw.g + base * L::kDecayRow + d, L::kDecayRow);
    float k[kHalf];
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) k[i] = to_float(raw.k[(base + i) * L::kRow + d]);
    if (half == 0) s_.whole[d] = decays.whole();
    if constexpr (kReads || kForward) {
      LIGER_UNROLL
      for (int i = 0; i < kHalf; ++i) put(s_.kR + (base + i) * L::kRow + d, k[i] * decays.from_here[i] * decays.after);
    }
    if constexpr (kReads || !kForward)
      for (int h = 0; h < kHeads; ++h) {
        const E* q = raw.q + (h * kTokens + base) * L::kRow + d;
        LIGER_UNROLL
        for (int i = 0; i < kHalf; ++i)
          put(s_.qP + (h * kTokens + base + i) * L::kRow + d,
              to_float(q[i * L::kRow]) * decays.to_query(i, p_.reads_before_decay) * decays.before);
      }
    if constexpr (kReads) scale_of_bits(raw, d, base, decays, k);
  }
  LIGER_DEVICE void scale_of_bits(const typename L::Raw& raw, int d, int base, const StepDecays& decays,
                                  const float (&k)[kHalf]) {
    // The highest bit is that of the half: its queries lie in the second, its keys in the first.
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      if (base == 0) {
        put(s_.keys[3] + i * L::kRow + d, k[i] * decays.from_here[i]);
      } else {
        for (int h = 0; h < kHeads; ++h)
          put(s_.queries[3] + (h * kHalf + i) * L::kRow + d,
              to_float(raw.q[(h * kTokens + base + i) * L::kRow + d]) * decays.to_query(i, p_.reads_before_decay));
      }
    }
    LIGER_UNROLL
    for (int bit = 0; bit < 3; ++bit) {
      const int size = 1 << bit;
      LIGER_UNROLL
      for (int i = 0; i < kHalf; ++i) {
        const int row = ((base + i) >> (bit + 1)) * size + (i & (size - 1));
        float decay = 1;
        if (i & size) {
          LIGER_UNROLL
          for (int j = i & ~(size - 1); j < i; ++j) decay *= decays.a[j];
          if (!p_.reads_before_decay) decay *= decays.a[i];
          for (int h = 0; h < kHeads; ++h)
            put(s_.queries[bit] + (h * kHalf + row) * L::kRow + d,
                to_float(raw.q[(h * kTokens + base + i) * L::kRow + d]) * decay);
        } else {
          LIGER_UNROLL
          for (int j = i + 1; j <= (i | (size - 1)); ++j) decay *= decays.a[j];
          put(s_.keys[bit] + row * L::kRow + d, k[i] * decay);
        }
      }
    }
  }
  static LIGER_DEVICE void put(E* to, float x) { round_to(x, *to); }

  // A, a warp for each bit of each head, and for the diagonal.
  LIGER_DEVICE void scores(const typename L::Raw& raw) {
    for (int job = warp_; job < kHeads * (kBits + 1); job += kWarps) {
      const int h = job / (kBits + 1), bit = job % (kBits + 1);
      E* A = s_.A + h * kTokens * L::kScoreRow;
      if (bit == kBits) {
        diagonal(raw.q + h * kTokens * L::kRow, raw.k, A);
      } else {
        scores_of_bit(bit, s_.queries[bit] + h * kHalf * L::kRow, s_.keys[bit], A);
      }
    }
  }
  LIGER_DEVICE void diagonal(const E* q, const E* k, E* A) {
    Accumulator c[2];
    for (int d = 0; d < K; d += 16) {
      const OperandA<E> a = load_a(q + d, L::kRow);
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n) multiply_add(c[n], a, load_b(k + n * 8 * L::kRow + d, L::kRow));
    }
    const int g = lane_row(), t = lane_column();
    LIGER_UNROLL
    for (int e = 0; e < 2; ++e) {
      if (g != t + e) continue;
      put(A + g * L::kScoreRow + g, c[0].x[e]);
      put(A + (g + 8) * L::kScoreRow + g + 8, c[1].x[2 + e]);
    }
  }
  // Eight queries and eight keys; the lower half of the tile's rows is zero.
  LIGER_DEVICE void scores_of_bit(int bit, const E* q, const E* k, E* A) {
    Accumulator c;
    const E* row = q + lane_row() * L::kRow + lane_column();
    const Pair<E> zero = {rounded<E>(0), rounded<E>(0)};
    for (int d = 0; d < K; d += 16) {
      const OperandA<E> a = {{load_pair(row + d), zero, load_pair(row + d + 8), zero}};
      multiply_add(c, a, load_b(k + d, L::kRow));
    }
    const int size = 1 << bit;
    LIGER_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int query = lane_row(), key = lane_column() + e;
      if (query >> bit != key >> bit) continue;  // of different pairs of blocks
      const int above = (query >> bit) << (bit + 1);
      const int i = above + size + (query & (size - 1)), j = above + (key & (size - 1));
      put(A + i * L::kScoreRow + j, c.x[e]);
    }
  }

  // o = (q P) S, or d_v = (k R) Z.
  LIGER_DEVICE void read_state(Accumulator (&o)[kOutputs][2]) const {
    LIGER_UNROLL
    for (int h = 0; h < kOutputs; ++h)
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n) o[h][n] = Accumulator();
    LIGER_UNROLL
    for (int d = 0; d < K / 16; ++d) {
      OperandB<E> b[2];
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        b[n] = {{{rounded<E>(S_[2 * d].x[2 * n]), rounded<E>(S_[2 * d].x[2 * n + 1])},
                 {rounded<E>(S_[2 * d + 1].x[2 * n]), rounded<E>(S_[2 * d + 1].x[2 * n + 1])}}};
      LIGER_UNROLL
      for (int h = 0; h < kOutputs; ++h) {
        const OperandA<E> a = load_a((kForward ? s_.qP + h * kTokens * L::kRow : s_.kR) + d * 16, L::kRow);
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n) multiply_add(o[h][n], a, b[n]);
      }
    }
  }
  // S <- diag(P_15) S + (k R)^T v, or Z with (q P)^T d_o, turned.
  LIGER_DEVICE void write_state(const typename L::Raw& raw, bool decays) {
    if (decays)
      LIGER_UNROLL
      for (int n = 0; n < K / 8; ++n) {
        const Pair<float> decay = load_pair(s_.whole + n * 8 + lane_column());
        LIGER_UNROLL
        for (int e = 0; e < 4; ++e) S_[n].x[e] *= e % 2 == 0 ? decay.x : decay.y;
      }
    LIGER_UNROLL
    for (int h = 0; h < L::kWriters; ++h) {
      const OperandA<E> columns =
          load_a_transposed(raw.columns + h * kTokens * L::kValueRow + warp_ * 16, L::kValueRow);
      const E* rows = kForward ? s_.kR : s_.qP + h * kTokens * L::kRow;
      LIGER_UNROLL
      for (int n = 0; n < K / 8; ++n) multiply_add(S_[n], columns, load_b_transposed(rows + n * 8, L::kRow));
    }
  }
  // o += A v, or d_v += A^T d_o.
  LIGER_DEVICE void read_chunk(const typename L::Raw& raw, Accumulator (&o)[kOutputs][2]) const {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const E* A = s_.A + h * kTokens * L::kScoreRow;
      const OperandA<E> scores = kForward ? load_a(A, L::kScoreRow) : load_a_transposed(A, L::kScoreRow);
      const E* columns = raw.columns + (kForward ? 0 : h * kTokens * L::kValueRow) + warp_ * 16;
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        multiply_add(o[kForward ? h : 0][n], scores, load_b_transposed(columns + n * 8, L::kValueRow));
    }
  }
  LIGER_DEVICE void store(const Accumulator (&o)[kOutputs][2], int64_t first) const {
    const int64_t heads = kForward ? p_.H : p_.Hkv, head = kForward ? head_ : kv_head_;
    LIGER_UNROLL
    for (int h = 0; h < kOutputs; ++h)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t token = first + lane_row() + half * 8;
        if (token >= place_.end) continue;
        E* row = static_cast<E*>(pass_.columns) + (token * heads + head + h) * p_.V + column_ + warp_ * 16 +
                 lane_column();
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n)
          *reinterpret_cast<Pair<E>*>(row + n * 8) = {rounded<E>(o[h][n].x[2 * half]),
                                                      rounded<E>(o[h][n].x[2 * half + 1])};
      }
  }

  // Element e of S_[n] is row (channel) n * 8 + lane_column() + e % 2 of the state, column lane_row() + e / 2 * 8.
  template <typename Body>
  LIGER_DEVICE void each_of_state(int64_t index, const Body& body) {
    const int64_t state = (index * p_.Hkv + kv_head_) * K * p_.V + column_ + warp_ * 16 + lane_row();
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) body(S_[n].x[e], state + (n * 8 + lane_column() + e % 2) * p_.V + e / 2 * 8);
  }
  LIGER_DEVICE int64_t part_index(int64_t part) const { return place_.sequence * p_.parts + part; }
  LIGER_DEVICE void load_state() {
    if (!kReads) return;
    const float* from = p_.side_by_side ? pass_.states : pass_.state_first;
    if (!from) return;
    each_of_state(p_.side_by_side ? part_index(place_.part) : place_.sequence,
                  [&](float& x, int64_t at) { x = from[at]; });
  }
  LIGER_DEVICE void finish(const float (&decay)[kDecaysOfThread]) {
    if constexpr (kReads) {
      if (p_.side_by_side || !pass_.state_last || !writes_state_) return;
      each_of_state(place_.sequence, [&](float& x, int64_t at) { pass_.state_last[at] = x; });
    } else {
      each_of_state(part_index(place_.part), [&](float& x, int64_t at) { pass_.states[at] = x; });
      if (blockIdx.x > 0) return;
      float* out = pass_.decays + (part_index(place_.part) * p_.Hkv + kv_head_) * K;
      LIGER_UNROLL
      for (int i = 0; i < kDecaysOfThread; ++i)
        if (const int d = static_cast<int>(threadIdx.x) + i * kThreads; d < K) out[d] = decay[i];
    }
  }

  const DiagonalPass& pass_;
  const DiagonalScan& p_;
  L& s_;
  Place place_;
  int64_t kv_head_, head_, turns_, column_;
  int warp_;
  bool writes_state_;  ///< one of the blocks that hold the same state
  Accumulator S_[K / 8];
};

template <typename E, int K, int kHeads, int kWarps, bool kForward, bool kReads>
__global__ void __launch_bounds__(32 * kWarps) diagonal_columns(const DiagonalPass pass) {
  LIGER_SHARED(memory);
  using L = ColumnsLayout<E, K, kHeads, kWarps, kForward>;
  Columns<E, K, kHeads, kWarps, kForward, kReads>(pass, *reinterpret_cast<L*>(memory)).run();
}

// The columns of a block: registers hold K values of sixteen columns a warp, and eight warps of 256.
template <int K>
constexpr int kColumnWarps = K == 64 ? 4 : 8;

template <typename E, int K, int kHeads, bool kForward, bool kReads>
constexpr bool kColumnsFit = sizeof(ColumnsLayout<E, K, kHeads, kColumnWarps<K>, kForward>) <= kSharedLimit;

template <typename E, int K, int kHeads, bool kForward, bool kReads>
const char* run_columns(const DiagonalPass& pass, void* stream) {
  constexpr int kWarps = kColumnWarps<K>;
  using L = ColumnsLayout<E, K, kHeads, kWarps, kForward>;
  static_assert(sizeof(L) <= kSharedLimit, "does not fit");
  const DiagonalScan& p = pass.scan;
  const dim3 grid(static_cast<unsigned>(p.V / L::kColumns),
                  static_cast<unsigned>(kForward && kReads ? p.H / kHeads : p.Hkv),
                  static_cast<unsigned>(p.sequences * (p.side_by_side ? p.parts : 1)));
  return launch(kForward ? "diagonal scan, columns" : "diagonal scan backward, columns",
                diagonal_columns<E, K, kHeads, kWarps, kForward, kReads>, grid, 32 * kWarps, sizeof(L), stream, pass);
}

// As many heads of a group together as divide it and fit: they share the state's work.
template <typename E, int K, bool kForward, bool kReads>
const char* run_columns_of_heads(const DiagonalPass& pass, void* stream) {
  const int64_t group = pass.scan.H / pass.scan.Hkv;
  if constexpr (!kForward || kReads) {
    if constexpr (kColumnsFit<E, K, 4, kForward, kReads>)
      if (group % 4 == 0) return run_columns<E, K, 4, kForward, kReads>(pass, stream);
    if constexpr (kColumnsFit<E, K, 2, kForward, kReads>)
      if (group % 2 == 0) return run_columns<E, K, 2, kForward, kReads>(pass, stream);
  }
  return run_columns<E, K, 1, kForward, kReads>(pass, stream);
}
template <bool kForward, bool kReads>
const char* run_columns_of_type(const DiagonalPass& pass, void* stream) {
  return for_type_and_size(pass.scan.type, pass.scan.K, [&](auto element, auto size) {
    return run_columns_of_heads<decltype(element), decltype(size)::value, kForward, kReads>(pass, stream);
  });
}

}  // namespace liger::kernels
