// Forward pass of the delta rule's scan: S' = diag(a_t) S_{t-1}, S_t = S' + b_t k_t r_t^T with r_t = v_t - S'^T k_t,
// o_t = q_t^T S_t.
//
// A block of threads owns a slice of V's columns of one state, which never leaves its registers, and walks through the
// sequence 16 tokens at a time (delta_chunk.cuh). Inside those 16 the r wait for each other: with L_ij, j < i, the
// scores of the keys among themselves,
//   r_i = v_i - (k_i P_i)^T S - sum_j L_ij b_j r_j,   r = (1 + L diag(b))^{-1} (v - (k P) S),   u = b r,
//   o = (q P) S + A u,   S <- diag(P_15) S + (k R)^T u.
// One warp inverts the triangular matrix, in float32, while the others read the state.
//
// Each warp holds 16 columns of S, turned: as rows of an accumulator [16, K]. So are r and u, [16 columns, 16 tokens]:
// what one product leaves in registers is the operand of the next, and only v comes through shared memory. Loops over
// K, V and heads are unrolled; registers are the limit.

#include "delta_chunk.cuh"
#include "delta_scan.h"

namespace liger::kernels {
namespace {

using namespace delta;

/// Shared memory. Two stages of raw rows: those in use, and the next 16 tokens' on their way.
template <typename E, int K, int kHeads, int kWarps>
struct Layout {
  static constexpr int kStages = sizeof(E) == 4 ? 1 : 2, kColumns = 16 * kWarps;
  static constexpr int kRow = pitch(K, sizeof(E)), kValueRow = pitch(kColumns, sizeof(E));

  struct Raw {
    alignas(16) E q[kHeads * kTokens * kRow];
    alignas(16) E k[kTokens * kRow];
    alignas(16) E v[kTokens * kValueRow];
    alignas(16) float g[kTokens * (K + 4)];
    alignas(16) float b[kTokens];

    LIGER_DEVICE Rows<E> rows() { return {q, k, g, b}; }
  };
  Raw raw[kStages];
  Prepared<E, K, kHeads> prepared;
};

template <typename E, int K, int kHeads, int kWarps>
class Scan {
  using L = Layout<E, K, kHeads, kWarps>;
  static constexpr int kScoreRow = Prepared<E, K, kHeads>::kScoreRow;

 public:
  LIGER_DEVICE Scan(const DeltaScanForward& p, L& shared)
      : p_(p), s_(shared), subgroups_(static_cast<int>(p.H / p.Hkv) / kHeads), kv_head_(blockIdx.y / subgroups_),
        chunk_(p, shared.prepared, kv_head_) {
    head_ = static_cast<int64_t>(blockIdx.y) * kHeads;
    column_ = static_cast<int64_t>(blockIdx.x) * L::kColumns;
    first_of_group_ = blockIdx.y % subgroups_ == 0;
  }

  LIGER_DEVICE void run() {
    const int64_t state = (blockIdx.z * p_.Hkv + kv_head_) * K * p_.V + column_ + chunk_.warp() * 16;
    if (p_.state_in) S_.load(p_.state_in + state, p_.V);
    fetch(chunk_.begin(), 0);
    int stage = 0;
    for (int64_t first = chunk_.begin(); first < chunk_.end(); first += kTokens) {
      wait_for_copies<0>();
      __syncthreads();
      if (L::kStages == 2) fetch(first + kTokens, stage ^ 1);
      typename L::Raw& raw = s_.raw[stage];
      if (p_.features.raw) {
        chunk_.make_features(raw.rows(), first, true);
        __syncthreads();
      }
      chunk_.prepare(raw.rows(), true);
      Accumulator o[kHeads][2], known[2];
      read_state(o, known);
      __syncthreads();
      const OperandA<E> u = solve_chunk(raw, known, first);
      read_chunk(u, o);
      S_.decay(s_.prepared.whole);
      S_.add(u, s_.prepared.kR);
      store(o, first);
      if (L::kStages == 1) {
        __syncthreads();
        fetch(first + kTokens, 0);
      } else {
        stage ^= 1;
      }
    }
    wait_for_copies<0>();
    if (first_of_group_ && p_.state_out) S_.store(p_.state_out + state, p_.V);
  }

 private:
  LIGER_DEVICE void fetch(int64_t first, int stage) {
    typename L::Raw& raw = s_.raw[stage];
    if (first < chunk_.end()) {
      chunk_.fetch_queries(raw.rows(), first, head_);
      chunk_.fetch_keys(raw.rows(), first);
      chunk_.fetch(static_cast<const E*>(p_.v) + kv_head_ * p_.V + column_, first, p_.Hkv * p_.V, L::kColumns, raw.v,
                   L::kValueRow);
    }
    close_copies();
  }

  // o = (q P) S, and what S knows of the keys' values: S^T (k P)^T.
  LIGER_DEVICE void read_state(Accumulator (&o)[kHeads][2], Accumulator (&known)[2]) const {
    LIGER_UNROLL
    for (int d = 0; d < K / 16; ++d) {
      const OperandA<E> S = S_.template channels<E>(d);
      const E* readers = s_.prepared.readers + d * 16;
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        multiply_add(known[n], S, load_b(readers + (kHeads * kTokens + n * 8) * L::kRow, L::kRow));
      LIGER_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const OperandA<E> q = load_a(readers + h * kTokens * L::kRow, L::kRow);
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n) multiply_add(o[h][n], q, as_b(S, n));
      }
    }
  }
  // u of this warp's columns; r goes where the backward pass finds it.
  LIGER_DEVICE OperandA<E> solve_chunk(const typename L::Raw& raw, const Accumulator (&known)[2], int64_t first) const {
    const OperandA<E> v = load_a_transposed(raw.v + chunk_.warp() * 16, L::kValueRow);
    Accumulator lacking[2], r[2];
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const Pair<E>& pair = v.pair[2 * n + e / 2];
        lacking[n].x[e] = to_float(e % 2 == 0 ? pair.x : pair.y) - known[n].x[e];
      }
    solve<true>(lacking, s_.prepared.inverse, r);
    if (first_of_group_ && p_.r) store_r(r, first);
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n) {
      const Pair<float> b = load_pair(raw.b + n * 8 + lane_column());
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) r[n].x[e] *= e % 2 == 0 ? b.x : b.y;
    }
    return as_a<E>(r[0], r[1]);
  }
  // o += A u.
  LIGER_DEVICE void read_chunk(const OperandA<E>& u, Accumulator (&o)[kHeads][2]) const {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const OperandA<E> A = load_a(s_.prepared.A + h * kTokens * kScoreRow, kScoreRow);
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n) multiply_add(o[h][n], A, as_b(u, n));
    }
  }

  LIGER_DEVICE void store(const Accumulator (&o)[kHeads][2], int64_t first) const {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t token = first + lane_row() + half * 8;
        if (token >= chunk_.end()) continue;
        E* row = static_cast<E*>(p_.o) + (token * p_.H + head_ + h) * p_.V + column_ + chunk_.warp() * 16 +
                 lane_column();
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n)
          *reinterpret_cast<Pair<E>*>(row + n * 8) = {rounded<E>(o[h][n].x[2 * half]),
                                                      rounded<E>(o[h][n].x[2 * half + 1])};
      }
  }
  LIGER_DEVICE void store_r(const Accumulator (&r)[2], int64_t first) const {
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int64_t token = first + n * 8 + lane_column() + e % 2;
        if (token < chunk_.end())
          p_.r[(token * p_.Hkv + kv_head_) * p_.V + column_ + chunk_.warp() * 16 + lane_row() + e / 2 * 8] = r[n].x[e];
      }
  }

  const DeltaScanForward& p_;
  L& s_;
  int subgroups_;  ///< blocks that hold the same state
  int64_t kv_head_, head_, column_;
  bool first_of_group_;
  Chunk<E, K, kHeads, kWarps, Strengths::kOfColumns> chunk_;
  State<K> S_;
};

template <typename E, int K, int kHeads, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) delta_scan_fwd_kernel(const DeltaScanForward p) {
  LIGER_SHARED(memory);
  Scan<E, K, kHeads, kWarps>(p, *reinterpret_cast<Layout<E, K, kHeads, kWarps>*>(memory)).run();
}

template <typename E, int K, int kHeads>
const char* run(const DeltaScanForward& p, void* stream) {
  constexpr int kWarps = static_cast<int>(delta_scan_columns(K)) / 16;
  using L = Layout<E, K, kHeads, kWarps>;
  static_assert(sizeof(L) <= kSharedLimit, "does not fit");
  const dim3 grid(static_cast<unsigned>(p.V / L::kColumns), static_cast<unsigned>(p.H / kHeads),
                  static_cast<unsigned>(p.sequences));
  return launch("delta_scan_fwd", delta_scan_fwd_kernel<E, K, kHeads, kWarps>, grid, 32 * kWarps, sizeof(L), stream, p);
}

template <typename E, int K>
struct Fitting {
  template <int kHeads>
  using Heads = Layout<E, K, kHeads, static_cast<int>(delta_scan_columns(K)) / 16>;
};

}  // namespace

const char* delta_scan_fwd_refuses(const DeltaScanForward& p) { return refuses(p); }

const char* delta_scan_fwd(const DeltaScanForward& p, void* stream) {
  if (const char* reason = delta_scan_fwd_refuses(p)) return reason;
  if (p.sequences == 0) return nullptr;
  return for_type_and_size(p.type, p.K, [&](auto element, auto size) {
    using E = decltype(element);
    constexpr int K = decltype(size)::value;
    return for_heads<Fitting<E, K>::template Heads>(
        p.H / p.Hkv, [&](auto heads) { return run<E, K, decltype(heads)::value>(p, stream); });
  });
}

}  // namespace liger::kernels
