// One chunk of the recurrence S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t, and of its delta rule, as matrix
// products around the state. Decays enter as products of a = exp(g) between two tokens of a chunk, so that no exponent
// but g itself is ever formed and none is positive: any g <= 0 is exact, -1e4 and -infinity included.
//
// With P_i = a_0 ... a_i and R_j = a_{j+1} ... a_{C-1} (elementwise, C tokens), and for a query i and a key j <= i
//   A_ij = q_i . (k_j a_{j+1} ... a_i):
//   o_i = (q_i P_i)^T S + sum_j A_ij v_j,   S_new = diag(P_{C-1}) S + sum_j (k_j R_j) v_j^T.
// The delta rule S_t = S' + b_t k_t (v_t - S'^T k_t)^T, S' = diag(a_t) S_{t-1}, is the same recurrence with
//   u_i = b_i (v_i - w_i),   w_i = (k_i P_i)^T S + sum_{j<i} B_ij u_j,   B_ij = k_i . (k_j a_{j+1} ... a_i)
// in place of v: the key is one more query, which sees earlier tokens only.
// RWKV-6 reads before the decay: A_ij = q_i . (k_j a_{j+1} ... a_{i-1}), A_ii = q_i . k_i, and P_{i-1} for P_i.
#pragma once

#include "cpu/arena.h"
#include "cpu/gemm.h"

namespace liger {
namespace {

/// What a chunk's products need to know; K and V are the sizes of one key and one value.
template <typename T>
struct ScanShape {
  int64_t group, K, V;  ///< group: query heads that share the state
  bool delta_rule = false, reads_before_decay = false;
  int64_t Kp = padded<T>(K), Vp = padded<T>(V), Sp = state_stride<T>(V);  ///< rows of keys, values and states
  int64_t queries() const { return group + (delta_rule ? 1 : 0); }
};

/// The inputs of a chunk, kChunk rows each. Rows past the end of a sequence have q = k = v = b = 0 and a = 1.
template <typename T>
struct ScanRows {
  T* q;  ///< [queries][kChunk][Kp]; for the delta rule the last block is made here: the keys
  T* k;  ///< [kChunk][Kp]
  T* v;  ///< [kChunk][Vp]
  T* a;  ///< [kChunk][Kp], exp(g)
  T* b;  ///< [kChunk], delta rule only

  ScanRows(const ScanShape<T>& s, Arena& arena)
      : q(arena.take<T>(s.queries() * kChunk * s.Kp)),
        k(arena.take<T>(kChunk * s.Kp)),
        v(arena.take<T>(kChunk * s.Vp)),
        a(arena.take<T>(kChunk * s.Kp)),
        b(arena.take<T>(kChunk)) {}
};

template <typename T>
class ChunkScan {
 public:
  ChunkScan(const ScanShape<T>& shape, Arena& arena)
      : s_(shape),
        P_(take(arena, shape.Kp)),
        R_(take(arena, shape.Kp)),
        whole_(arena.take<T>(shape.Kp)),
        qP_(take(arena, shape.queries() * shape.Kp)),
        kR_(take(arena, shape.Kp)),
        A_(take(arena, shape.queries() * kChunk)),
        u_(take(arena, shape.Vp)),
        error_(take(arena, shape.Vp)),
        o_(take(arena, shape.queries() * shape.Vp)) {}

  /// The outputs of a chunk whose state before is S [K][Sp], which stays: [queries][kChunk][Vp], the first `group`
  /// of them the query heads', valid until the next call.
  const T* outputs(const ScanRows<T>& x, const T* S) {
    prepare(x);
    scores(x, 0);
    read_state(0, s_.queries(), S);
    written_ = solve(x);
    for (int64_t h = 0; h < s_.group; ++h)
      product<Into::kAdd>(kChunk, s_.Vp, kChunk,
                          Product<T>{A(h), kChunk, 1, written_, s_.Vp, o_ + h * kChunk * s_.Vp, s_.Vp});
    return o_;
  }
  /// S to after the chunk of the last call of outputs().
  void advance(T* S) {
    product<Into::kScale>(s_.K, s_.Vp, kChunk, Product<T>{kR_, 1, s_.Kp, written_, s_.Vp, S, s_.Sp, whole_});
  }
  /// Both, where no output is wanted: then only the delta rule's own query is read.
  void advance(const ScanRows<T>& x, T* S) {
    prepare(x);
    if (s_.delta_rule) {
      scores(x, s_.group);
      read_state(s_.group, 1, S);
    }
    written_ = solve(x);
    advance(S);
  }

 protected:
  static T* take(Arena& arena, int64_t row) { return arena.take<T>(kChunk * row); }
  T* A(int64_t query) { return A_ + query * kChunk * kChunk; }

  // P, R and the decay of the whole chunk, and queries and keys scaled with them.
  void prepare(const ScanRows<T>& x) {
    const int64_t Kp = s_.Kp;
    if (s_.delta_rule)
      std::memcpy(x.q + s_.group * kChunk * Kp, x.k, sizeof(T) * static_cast<size_t>(kChunk * Kp));
    for (int64_t d = 0; d < Kp; d += kWidth<T>) {
      Vec<T> product = splat(T(1));
      for (int64_t i = 0; i < kChunk; ++i) {
        const Vec<T> before = product;
        product *= load(x.a + i * Kp + d);
        store(P_ + i * Kp + d, s_.reads_before_decay ? before : product);
      }
      store(whole_ + d, product);
      product = splat(T(1));
      for (int64_t i = kChunk - 1; i >= 0; --i) {
        store(R_ + i * Kp + d, product);
        store(kR_ + i * Kp + d, load(x.k + i * Kp + d) * product);
        product *= load(x.a + i * Kp + d);
      }
      for (int64_t r = 0; r < s_.queries() * kChunk; ++r)
        store(qP_ + r * Kp + d, load(x.q + r * Kp + d) * load(P_ + (r % kChunk) * Kp + d));
    }
  }

  // A of the queries from `first` on: the lower triangle, zeros above; B has a zero diagonal too.
  void scores(const ScanRows<T>& x, int64_t first) {
    for (int64_t h = first; h < s_.queries(); ++h) {
      const T* q = x.q + h * kChunk * s_.Kp;
      if (s_.reads_before_decay) {
        scores_of<true>(q, x.k, x.a, A(h));
      } else {
        scores_of<false>(q, x.k, x.a, A(h));
      }
    }
    if (s_.delta_rule)
      for (int64_t i = 0; i < kChunk; ++i) A(s_.group)[i * kChunk + i] = 0;
  }

  template <bool kReadsBefore>
  void scores_of(const T* q, const T* k, const T* a, T* A) const {
    const int64_t Kp = s_.Kp;
#pragma GCC unroll 16
    for (int64_t j = 0; j < kChunk; ++j) {
      Vec<T> total[kChunk] = {};
      for (int64_t d = 0; d < Kp; d += kWidth<T>) {
        Vec<T> w = load(k + j * Kp + d);
        total[j] += load(q + j * Kp + d) * w;
#pragma GCC unroll 16
        for (int64_t i = j + 1; i < kChunk; ++i) {
          if (!kReadsBefore) w *= load(a + i * Kp + d);
          total[i] += load(q + i * Kp + d) * w;
          if (kReadsBefore) w *= load(a + i * Kp + d);
        }
      }
#pragma GCC unroll 16
      for (int64_t i = j; i < kChunk; ++i) A[i * kChunk + j] = sum<T>(total[i]);
    }
  }

  // o = (q P)^T S, for the delta rule's key w as well.
  void read_state(int64_t first, int64_t queries, const T* S) {
    const int64_t skip = first * kChunk;
    product<Into::kSet>(queries * kChunk, s_.Vp, s_.K,
                        Product<T>{qP_ + skip * s_.Kp, s_.Kp, 1, S, s_.Sp, o_ + skip * s_.Vp, s_.Vp});
  }

  // The values to write: v, or for the delta rule u, by forward substitution.
  const T* solve(const ScanRows<T>& x) {
    if (!s_.delta_rule) return x.v;
    const int64_t Vp = s_.Vp;
    const T *w = o_ + s_.group * kChunk * Vp, *B = A(s_.group);
    for (int64_t i = 0; i < kChunk; ++i) {
      for (int64_t d = 0; d < Vp; d += kWidth<T>) {
        Vec<T> error = load(x.v + i * Vp + d) - load(w + i * Vp + d);
        for (int64_t j = 0; j < i; ++j) error -= B[i * kChunk + j] * load(u_ + j * Vp + d);
        store(error_ + i * Vp + d, error);
        store(u_ + i * Vp + d, error * x.b[i]);
      }
    }
    return u_;
  }

  ScanShape<T> s_;
  T *P_, *R_, *whole_;  // [kChunk][Kp] each, whole_ [Kp]
  T *qP_, *kR_;         // [queries][kChunk][Kp], [kChunk][Kp]
  T* A_;                // [queries][kChunk][kChunk]
  T *u_, *error_, *o_;  // [kChunk][Vp] twice, [queries][kChunk][Vp]
  const T* written_ = nullptr;
};

}  // namespace
}  // namespace liger
