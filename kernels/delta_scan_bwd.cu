// The part of the backward pass of the delta rule's scan that goes back in time (delta_scan.h says what it is for).
//
// As in the forward pass a block of threads owns a slice of V's columns of one key/value head: here of G, the gradient
// of the state after a chunk of 16 tokens, in registers, while it walks through the sequence from its end. With the
// forward pass's names, inside those 16:
//   dU = sum_h A^T d_o + (k R) G,   y = (1 + diag(b) L)^{-T} dU,   d_v = b y,   w = -d_v,   d_b = y . r,
//   G <- diag(P_15) G + sum_h (q P)^T d_o + (k P)^T w,
// where y is the gradient of u and 1 + diag(b) L the matrix of u's equations: b is nowhere divided by.
//
// All query heads of a group end in the same G: those that do not fit together come in passes over the chunk.

#include "delta_chunk.cuh"
#include "delta_scan.h"

namespace liger::kernels {
namespace {

using namespace delta;

/// Shared memory. Two stages of raw rows: those in use, and those of the next pass or chunk on their way.
template <typename E, int K, int kHeads, int kWarps>
struct Layout {
  static constexpr int kStages = sizeof(E) == 4 ? 1 : 2, kColumns = 16 * kWarps;
  static constexpr int kRow = pitch(K, sizeof(E)), kValueRow = pitch(kColumns, sizeof(E));

  struct Heads {
    alignas(16) E q[kHeads * kTokens * kRow];
    alignas(16) E d_o[kHeads * kTokens * kValueRow];
  };
  struct Keys {
    alignas(16) E k[kTokens * kRow];
    alignas(16) float g[kTokens * (K + 4)];
    alignas(16) float b[kTokens];
  };
  Heads heads[kStages];
  Keys keys[kStages];
  Prepared<E, K, kHeads> prepared;
  alignas(16) float d_b[kWarps * kTokens];  ///< each warp's part
};

template <typename E, int K, int kHeads, int kWarps>
class Scan {
  using L = Layout<E, K, kHeads, kWarps>;
  static constexpr int kScoreRow = Prepared<E, K, kHeads>::kScoreRow;

 public:
  LIGER_DEVICE Scan(const DeltaScanBackwardValues& p, L& shared)
      : p_(p), s_(shared), kv_head_(blockIdx.y), chunk_(p, shared.prepared, kv_head_) {
    column_ = static_cast<int64_t>(blockIdx.x) * L::kColumns;
    group_ = static_cast<int>(p.H / p.Hkv);
  }

  LIGER_DEVICE void run() {
    const int64_t state = (blockIdx.z * p_.Hkv + kv_head_) * K * p_.V + column_ + chunk_.warp() * 16;
    if (p_.d_state_out) G_.load(p_.d_state_out + state, p_.V);
    const int64_t chunks = (chunk_.end() - chunk_.begin() + kTokens - 1) / kTokens;
    Pass pass = {chunk_.begin() + (chunks - 1) * kTokens, 0};
    fetch(pass, 0, 0);
    int stage = 0, key_stage = 0;
    constexpr int kOther = L::kStages - 1;
    Accumulator dU[2];
    for (Pass next; pass.first >= chunk_.begin(); pass = next) {
      next = after(pass);
      const bool opens = pass.head == 0, closes = next.head == 0;  // its chunk
      const int next_key_stage = closes ? key_stage ^ kOther : key_stage;
      wait_for_copies<0>();
      __syncthreads();
      if (L::kStages == 2) fetch(next, stage ^ 1, next_key_stage);
      if (opens) store_d_b(pass.first + kTokens);
      typename L::Heads& heads = s_.heads[stage];
      const Rows<E> rows = rows_of(stage, key_stage);
      float r[8] = {};
      if (closes) load_r(r, pass.first);  // what is far away, early
      if (p_.features.raw) {
        chunk_.make_features(rows, pass.first, opens);
        __syncthreads();
      }
      chunk_.prepare(rows, opens);
      if (opens) open_chunk(dU);
      write_queries(heads);
      __syncthreads();
      read_scores(heads, dU);
      if (closes) close_chunk(dU, r, rows.b, pass.first);
      if (L::kStages == 1) {
        __syncthreads();
        fetch(next, 0, 0);
      }
      stage ^= kOther;
      key_stage = next_key_stage;
    }
    wait_for_copies<0>();
    __syncthreads();
    if (chunks > 0) store_d_b(chunk_.begin());
    if (p_.d_state_in) G_.store(p_.d_state_in + state, p_.V);
  }

 private:
  // Some heads of the group, at the 16 tokens from `first` on.
  struct Pass {
    int64_t first;
    int head;
  };
  LIGER_DEVICE Pass after(const Pass& pass) const {
    if (pass.head + kHeads < group_) return {pass.first, pass.head + kHeads};
    return {pass.first - kTokens, 0};
  }
  LIGER_DEVICE Rows<E> rows_of(int stage, int key_stage) {
    typename L::Keys& keys = s_.keys[key_stage];
    return {s_.heads[stage].q, keys.k, keys.g, keys.b};
  }
  LIGER_DEVICE void fetch(const Pass& pass, int stage, int key_stage) {
    if (pass.first >= chunk_.begin()) {
      const int64_t head = kv_head_ * group_ + pass.head;
      chunk_.fetch_queries(rows_of(stage, key_stage), pass.first, head);
      for (int h = 0; h < kHeads; ++h)
        chunk_.fetch(static_cast<const E*>(p_.d_o) + (head + h) * p_.V + column_, pass.first, p_.H * p_.V, L::kColumns,
                     s_.heads[stage].d_o + h * kTokens * L::kValueRow, L::kValueRow);
      if (pass.head == 0) chunk_.fetch_keys(rows_of(stage, key_stage), pass.first);
    }
    close_copies();
  }

  // dU = (k R) G, and G back to before the chunk.
  LIGER_DEVICE void open_chunk(Accumulator (&dU)[2]) {
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n) dU[n] = {};
    LIGER_UNROLL
    for (int d = 0; d < K / 16; ++d) {
      const OperandA<E> G = G_.template channels<E>(d);
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        multiply_add(dU[n], G, load_b(s_.prepared.kR + n * 8 * L::kRow + d * 16, L::kRow));
    }
    G_.decay(s_.prepared.whole);
  }
  // d_o of head h, turned.
  LIGER_DEVICE OperandA<E> d_o(const typename L::Heads& heads, int h) const {
    return load_a_transposed(heads.d_o + h * kTokens * L::kValueRow + chunk_.warp() * 16, L::kValueRow);
  }
  // G += (q P)^T d_o.
  LIGER_DEVICE void write_queries(const typename L::Heads& heads) {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h) G_.add(d_o(heads, h), s_.prepared.readers + h * kTokens * L::kRow);
  }
  // dU += A^T d_o.
  LIGER_DEVICE void read_scores(const typename L::Heads& heads, Accumulator (&dU)[2]) const {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      const OperandA<E> x = d_o(heads, h);
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        multiply_add(dU[n], x, load_b_transposed(s_.prepared.A + h * kTokens * kScoreRow + n * 8, kScoreRow));
    }
  }
  // y, what it says of v, b and u, and what it adds to G.
  LIGER_DEVICE void close_chunk(const Accumulator (&dU)[2], const float (&r)[8], const float* strengths,
                                int64_t first) {
    Accumulator y[2], w[2];
    solve<false>(dU, s_.prepared.inverse, y);
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n) {
      const Pair<float> b = load_pair(strengths + n * 8 + lane_column());
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) w[n].x[e] = -(e % 2 == 0 ? b.x : b.y) * y[n].x[e];
      LIGER_UNROLL
      for (int e = 0; e < 2; ++e) {
        float d_b = y[n].x[e] * r[4 * n + e] + y[n].x[e + 2] * r[4 * n + e + 2];
        LIGER_UNROLL
        for (int mask = 4; mask < 32; mask *= 2) d_b += exchange(d_b, mask);
        if (lane_row() == 0) s_.d_b[chunk_.warp() * kTokens + n * 8 + lane_column() + e] = d_b;
      }
    }
    each_value(first, [&](int n, int e, int64_t at) {
      const Pair<float> b = load_pair(strengths + n * 8 + lane_column());
      round_to(-w[n].x[e], static_cast<E*>(p_.d_v)[at]);
      p_.w[at] = w[n].x[e];
      p_.u[at] = (e % 2 == 0 ? b.x : b.y) * r[4 * n + e];
    });
    G_.add(as_a<E>(w[0], w[1]), s_.prepared.readers + kHeads * kTokens * L::kRow);
  }

  // Where element e of tile n of [16 columns, 16 tokens] lies among values.
  template <typename Body>
  LIGER_DEVICE void each_value(int64_t first, const Body& body) const {
    LIGER_UNROLL
    for (int n = 0; n < 2; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int64_t token = first + n * 8 + lane_column() + e % 2;
        if (token < chunk_.end())
          body(n, e, (token * p_.Hkv + kv_head_) * p_.V + column_ + chunk_.warp() * 16 + lane_row() + e / 2 * 8);
      }
  }
  LIGER_DEVICE void load_r(float (&r)[8], int64_t first) const {
    each_value(first, [&](int n, int e, int64_t at) { r[4 * n + e] = p_.r[at]; });
  }
  // The warps' parts, in the order of their numbers; none of tokens past the end.
  LIGER_DEVICE void store_d_b(int64_t first) const {
    const int64_t token = first + threadIdx.x;
    if (threadIdx.x >= kTokens || token >= chunk_.end()) return;
    float total = 0;
    for (int warp = 0; warp < kWarps; ++warp) total += s_.d_b[warp * kTokens + threadIdx.x];
    p_.d_b[(blockIdx.x * p_.N + token) * p_.Hkv + kv_head_] = total;
  }

  const DeltaScanBackwardValues& p_;
  L& s_;
  int64_t kv_head_, column_;
  int group_;
  Chunk<E, K, kHeads, kWarps, Strengths::kOfRows> chunk_;
  State<K> G_;
};

template <typename E, int K, int kHeads, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) delta_scan_bwd_values_kernel(const DeltaScanBackwardValues p) {
  LIGER_SHARED(memory);
  Scan<E, K, kHeads, kWarps>(p, *reinterpret_cast<Layout<E, K, kHeads, kWarps>*>(memory)).run();
}

template <typename E, int K, int kHeads>
const char* run(const DeltaScanBackwardValues& p, void* stream) {
  constexpr int kWarps = static_cast<int>(delta_scan_columns(K)) / 16;
  using L = Layout<E, K, kHeads, kWarps>;
  static_assert(sizeof(L) <= kSharedLimit, "does not fit");
  const dim3 grid(static_cast<unsigned>(p.V / L::kColumns), static_cast<unsigned>(p.Hkv),
                  static_cast<unsigned>(p.sequences));
  return launch("delta_scan_bwd_values", delta_scan_bwd_values_kernel<E, K, kHeads, kWarps>, grid, 32 * kWarps,
                sizeof(L), stream, p);
}

template <typename E, int K>
struct Fitting {
  template <int kHeads>
  using Heads = Layout<E, K, kHeads, static_cast<int>(delta_scan_columns(K)) / 16>;
};

}  // namespace

const char* delta_scan_bwd_values_refuses(const DeltaScanBackwardValues& p) { return refuses(p); }

const char* delta_scan_bwd_values(const DeltaScanBackwardValues& p, void* stream) {
  if (const char* reason = delta_scan_bwd_values_refuses(p)) return reason;
  if (p.sequences == 0) return nullptr;
  return for_type_and_size(p.type, p.K, [&](auto element, auto size) {
    using E = decltype(element);
    constexpr int K = decltype(size)::value;
    return for_heads<Fitting<E, K>::template Heads>(
        p.H / p.Hkv, [&](auto heads) { return run<E, K, decltype(heads)::value>(p, stream); });
  });
}

}  // namespace liger::kernels
