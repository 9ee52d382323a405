// Forward pass of the diagonal scan: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t, a = exp(g).
//
// A block of threads owns a slice of V's columns of one state, which never leaves its registers, and walks through the
// sequence 16 tokens at a time. With P_i = a_0 ... a_i and R_j = a_{j+1} ... a_15 inside those 16:
//   o = (q P) S + A v,   S <- diag(P_15) S + (k R)^T v,   A_ij = q_i . (k_j a_{j+1} ... a_i) for j <= i.
// Nothing but g itself is exponentiated and decays are only multiplied, so that any g <= 0 is exact. A comes from one
// small product for each bit of a token's number: queries and keys whose highest differing bit is that one meet where
// it changes, so that each side is scaled by decays on its own side alone.
//
// Raw projections become features and log-decays where they arrive in shared memory: no gate tensor exists.
//
// Each warp holds 16 columns of S, turned: as rows of an accumulator [16, K], whose registers are at once those of the
// operand S of q S. Loops over K, V and heads are unrolled; registers are the limit.

#include "diagonal_scan.h"
#include "features.cuh"
#include "rows.cuh"

namespace liger::kernels {
namespace {

constexpr int kTokens = 16, kHalf = 8, kBits = 4;

/// Shared memory. Two stages of raw rows: those in use, and the next 16 tokens' on their way.
template <typename E, int K, int kHeads, int kWarps>
struct Layout {
  static constexpr int kStages = sizeof(E) == 4 ? 1 : 2, kColumns = 16 * kWarps;
  static constexpr int kRow = pitch(K, sizeof(E)), kValueRow = pitch(kColumns, sizeof(E)), kDecayRow = K + 4;
  static constexpr int kScoreRow = pitch(kTokens, sizeof(E));

  struct Raw {
    alignas(16) E q[kHeads * kTokens * kRow];
    alignas(16) E k[kTokens * kRow];
    alignas(16) E v[kTokens * kValueRow];
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

template <typename E, int K, int kHeads, int kWarps>
class Scan {
  using L = Layout<E, K, kHeads, kWarps>;
  static constexpr int kThreads = 32 * kWarps;

 public:
  LIGER_DEVICE Scan(const DiagonalScanForward& p, L& shared) : p_(p), s_(shared) {
    sequence_ = blockIdx.z;
    const int subgroups = static_cast<int>(p.H / p.Hkv) / kHeads;
    kv_head_ = blockIdx.y / subgroups;
    head_ = static_cast<int64_t>(blockIdx.y) * kHeads;
    column_ = static_cast<int64_t>(blockIdx.x) * L::kColumns;
    begin_ = p.starts ? p.starts[sequence_] : sequence_ * p.T;
    end_ = p.starts ? p.starts[sequence_ + 1] : begin_ + p.T;
    warp_ = static_cast<int>(threadIdx.x) / 32;
    writes_state_ = blockIdx.y % subgroups == 0;
  }

  LIGER_DEVICE void run() {
    load_state();
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * kTokens * L::kScoreRow; i += kThreads)
      round_to(0.0f, s_.A[i]);  // right of the diagonal it stays so
    fetch(begin_, 0);
    int stage = 0;
    for (int64_t first = begin_; first < end_; first += kTokens) {
      wait_for_copies<0>();
      __syncthreads();
      if (L::kStages == 2) fetch(first + kTokens, stage ^ 1);
      typename L::Raw& raw = s_.raw[stage];
      if (p_.features.raw) {
        make_features(raw, first);
        __syncthreads();
      }
      for (int d = channel(); d < K; d += kThreads / 2) scale(raw, d);
      __syncthreads();
      scores(raw);
      Accumulator o[kHeads][2];
      read_state(o);
      write_state(raw);
      __syncthreads();
      read_chunk(raw, o);
      store(o, first);
      if (L::kStages == 1) {
        __syncthreads();
        fetch(first + kTokens, 0);
      } else {
        stage ^= 1;
      }
    }
    wait_for_copies<0>();
    if (writes_state_) store_state();
  }

 private:
  // Half a warp has 16 channels of the first half's tokens, the other half the same of the second's.
  LIGER_DEVICE int channel() const { return warp_ * 16 + static_cast<int>(threadIdx.x) % 16; }
  LIGER_DEVICE int half() const { return static_cast<int>(threadIdx.x) % 32 / 16; }

  template <typename T>
  LIGER_DEVICE void fetch(const T* from, int64_t first, int64_t stride, int n, T* to, int row) const {
    fetch_rows<kTokens, kThreads>(from, first, begin_, end_, stride, n, to, row);
  }
  LIGER_DEVICE void fetch(int64_t first, int stage) {
    typename L::Raw& raw = s_.raw[stage];
    if (first < end_) {
      const E *q = static_cast<const E*>(p_.q), *k = static_cast<const E*>(p_.k), *v = static_cast<const E*>(p_.v);
      for (int h = 0; h < kHeads; ++h)
        fetch(q + (head_ + h) * K, first, p_.H * K, K, raw.q + h * kTokens * L::kRow, L::kRow);
      fetch(k + kv_head_ * K, first, p_.Hkv * K, K, raw.k, L::kRow);
      fetch(v + kv_head_ * p_.V + column_, first, p_.Hkv * p_.V, L::kColumns, raw.v, L::kValueRow);
      if (!p_.features.raw) fetch(p_.g + kv_head_ * K, first, p_.Hkv * K, K, raw.g, L::kDecayRow);
    }
    close_copies();
  }

  // Raw rows to features, and keys to log-decays, a row a warp. Rows past the end stay 0 and do not decay.
  LIGER_DEVICE void make_features(typename L::Raw& raw, int64_t first) {
    const Features& f = p_.features;
    for (int row = warp_; row < kTokens * (1 + kHeads); row += kWarps) {
      const bool is_key = row < kTokens;
      const bool there = first + row % kTokens < end_;
      E* at = (is_key ? raw.k + row * L::kRow : raw.q + (row - kTokens) * L::kRow) + lane();
      float x[K / 32];
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) x[c] = to_float(at[32 * c]);
      if (is_key) {
        float* g = raw.g + row * L::kDecayRow + lane();
        const float mean = f.per_channel ? 0 : sum_of_row(x) / K;
        LIGER_UNROLL
        for (int c = 0; c < K / 32; ++c) g[32 * c] = there ? log_decay(f, f.per_channel ? x[c] : mean, kv_head_) : 0;
      }
      make_feature(is_key ? f.key : f.query, x);
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) put(at + 32 * c, there ? x[c] : 0);
    }
  }
  // Everything that is scaled with the decays of channel d, for the eight tokens of this thread's half.
  LIGER_DEVICE void scale(const typename L::Raw& raw, int d) {
    const int base = half() * kHalf;
    float a[kHalf], k[kHalf], to_here[kHalf], from_here[kHalf];
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      a[i] = expf(raw.g[(base + i) * L::kDecayRow + d]);  // past the end g = 0, a = 1
      k[i] = to_float(raw.k[(base + i) * L::kRow + d]);
    }
    to_here[0] = a[0];
    from_here[kHalf - 1] = 1;
    LIGER_UNROLL
    for (int i = 1; i < kHalf; ++i) {
      to_here[i] = to_here[i - 1] * a[i];
      from_here[kHalf - 1 - i] = from_here[kHalf - i] * a[kHalf - i];
    }
    const float mine = to_here[kHalf - 1], other = exchange(mine, 16);
    const float before = half() == 0 ? 1 : other, after = half() == 0 ? other : 1;
    if (half() == 0) s_.whole[d] = mine * other;

    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) put(s_.kR + (base + i) * L::kRow + d, k[i] * from_here[i] * after);
    for (int h = 0; h < kHeads; ++h) {
      const E* q = raw.q + (h * kTokens + base) * L::kRow + d;
      LIGER_UNROLL
      for (int i = 0; i < kHalf; ++i)
        put(s_.qP + (h * kTokens + base + i) * L::kRow + d, to_float(q[i * L::kRow]) * to_here[i] * before);
    }
    // The highest bit is that of the half: its queries lie in the second, its keys in the first.
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) {
      if (half() == 0) {
        put(s_.keys[3] + i * L::kRow + d, k[i] * from_here[i]);
      } else {
        for (int h = 0; h < kHeads; ++h)
          put(s_.queries[3] + (h * kHalf + i) * L::kRow + d,
              to_float(raw.q[(h * kTokens + base + i) * L::kRow + d]) * to_here[i]);
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
          for (int j = i & ~(size - 1); j <= i; ++j) decay *= a[j];
          for (int h = 0; h < kHeads; ++h)
            put(s_.queries[bit] + (h * kHalf + row) * L::kRow + d,
                to_float(raw.q[(h * kTokens + base + i) * L::kRow + d]) * decay);
        } else {
          LIGER_UNROLL
          for (int j = i + 1; j <= (i | (size - 1)); ++j) decay *= a[j];
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

  // o = (q P) S.
  LIGER_DEVICE void read_state(Accumulator (&o)[kHeads][2]) const {
    LIGER_UNROLL
    for (int d = 0; d < K / 16; ++d) {
      OperandB<E> b[2];
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        b[n] = {{{rounded<E>(S_[2 * d].x[2 * n]), rounded<E>(S_[2 * d].x[2 * n + 1])},
                 {rounded<E>(S_[2 * d + 1].x[2 * n]), rounded<E>(S_[2 * d + 1].x[2 * n + 1])}}};
      LIGER_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const OperandA<E> a = load_a(s_.qP + h * kTokens * L::kRow + d * 16, L::kRow);
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n) multiply_add(o[h][n], a, b[n]);
      }
    }
  }
  // S <- diag(P_15) S + (k R)^T v, turned.
  LIGER_DEVICE void write_state(const typename L::Raw& raw) {
    const OperandA<E> v = load_a_transposed(raw.v + warp_ * 16, L::kValueRow);
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n) {
      const Pair<float> decay = load_pair(s_.whole + n * 8 + lane_column());
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) S_[n].x[e] *= e % 2 == 0 ? decay.x : decay.y;
      multiply_add(S_[n], v, load_b_transposed(s_.kR + n * 8, L::kRow));
    }
  }
  // o += A v.
  LIGER_DEVICE void read_chunk(const typename L::Raw& raw, Accumulator (&o)[kHeads][2]) const {
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n) {
      const OperandB<E> v = load_b_transposed(raw.v + warp_ * 16 + n * 8, L::kValueRow);
      LIGER_UNROLL
      for (int h = 0; h < kHeads; ++h)
        multiply_add(o[h][n], load_a(s_.A + h * kTokens * L::kScoreRow, L::kScoreRow), v);
    }
  }
  LIGER_DEVICE void store(const Accumulator (&o)[kHeads][2], int64_t first) const {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t token = first + lane_row() + half * 8;
        if (token >= end_) continue;
        E* row = static_cast<E*>(p_.o) + (token * p_.H + head_ + h) * p_.V + column_ + warp_ * 16 + lane_column();
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n)
          *reinterpret_cast<Pair<E>*>(row + n * 8) = {rounded<E>(o[h][n].x[2 * half]),
                                                      rounded<E>(o[h][n].x[2 * half + 1])};
      }
  }

  // Element e of S_[n] is row (channel) n * 8 + lane_column() + e % 2 of the state, column lane_row() + e / 2 * 8.
  template <typename Body>
  LIGER_DEVICE void each_of_state(const Body& body) {
    const int64_t state = (sequence_ * p_.Hkv + kv_head_) * K * p_.V + column_ + warp_ * 16 + lane_row();
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) body(S_[n].x[e], state + (n * 8 + lane_column() + e % 2) * p_.V + e / 2 * 8);
  }
  LIGER_DEVICE void load_state() {
    if (p_.state_in) each_of_state([&](float& x, int64_t at) { x = p_.state_in[at]; });
  }
  LIGER_DEVICE void store_state() {
    each_of_state([&](float& x, int64_t at) { p_.state_out[at] = x; });
  }

  const DiagonalScanForward& p_;
  L& s_;
  int64_t sequence_, kv_head_, head_, column_, begin_, end_;
  int warp_;
  bool writes_state_;  ///< one of the blocks that hold the same state
  Accumulator S_[K / 8];
};

template <typename E, int K, int kHeads, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) diagonal_scan_fwd_kernel(const DiagonalScanForward p) {
  LIGER_SHARED(memory);
  Scan<E, K, kHeads, kWarps>(p, *reinterpret_cast<Layout<E, K, kHeads, kWarps>*>(memory)).run();
}

template <typename E, int K, int kHeads, int kWarps>
const char* run(const DiagonalScanForward& p, void* stream) {
  using L = Layout<E, K, kHeads, kWarps>;
  static_assert(sizeof(L) <= kSharedLimit, "does not fit");
  const dim3 grid(static_cast<unsigned>(p.V / L::kColumns), static_cast<unsigned>(p.H / kHeads),
                  static_cast<unsigned>(p.sequences));
  return launch("diagonal_scan_fwd", diagonal_scan_fwd_kernel<E, K, kHeads, kWarps>, grid, 32 * kWarps, sizeof(L),
                stream, p);
}

// The columns of a block: registers hold K values of sixteen columns a warp, and eight warps of 256.
template <int K>
constexpr int kWarpsFor = K == 64 ? 4 : 8;

// As many heads of a group together as divide it and fit: they share the state's work.
template <typename E, int K>
const char* run_heads(const DiagonalScanForward& p, void* stream) {
  const int64_t group = p.H / p.Hkv;
  if constexpr (sizeof(Layout<E, K, 4, kWarpsFor<K>>) <= kSharedLimit)
    if (group % 4 == 0) return run<E, K, 4, kWarpsFor<K>>(p, stream);
  if constexpr (sizeof(Layout<E, K, 2, kWarpsFor<K>>) <= kSharedLimit)
    if (group % 2 == 0) return run<E, K, 2, kWarpsFor<K>>(p, stream);
  return run<E, K, 1, kWarpsFor<K>>(p, stream);
}
template <typename E>
const char* run_type(const DiagonalScanForward& p, void* stream) {
  switch (p.K) {
    case 64: return run_heads<E, 64>(p, stream);
    case 128: return run_heads<E, 128>(p, stream);
    default: return run_heads<E, 256>(p, stream);
  }
}

}  // namespace

const char* diagonal_scan_fwd_refuses(const DiagonalScanForward& p) {
  if (p.K != 64 && p.K != 128 && p.K != 256) return "the size of a key must be 64, 128 or 256";
  const int64_t columns = p.K == 64 ? 64 : 128;
  if (p.V < 1 || p.V % columns != 0)
    return p.K == 64 ? "with keys of 64 the size of a value must be a multiple of 64"
                     : "with keys of 128 or 256 the size of a value must be a multiple of 128";
  if (p.Hkv < 1 || p.H % p.Hkv != 0) return "query heads must be a multiple of key/value heads";
  if (p.H > 65535 || p.sequences > 65535) return "at most 65535 query heads and sequences";
  return nullptr;
}

const char* diagonal_scan_fwd(const DiagonalScanForward& p, void* stream) {
  if (const char* reason = diagonal_scan_fwd_refuses(p)) return reason;
  if (p.sequences == 0) return nullptr;
  switch (p.type) {
    case Type::kBFloat16: return run_type<BFloat16>(p, stream);
    case Type::kHalf: return run_type<Half>(p, stream);
    default: return run_type<float>(p, stream);
  }
}

}  // namespace liger::kernels
