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
//
// Decays between tokens of one half of a chunk are multiplied pair by pair. From half to half they part in the middle:
//   A_ij = (q_i a_h ... a_i) . (k_j a_{j+1} ... a_{h-1}),   h = C / 2   (for RWKV-6 up to a_{i-1}).
#pragma once

#include "cpu/arena.h"
#include "cpu/gemm.h"
#include "cpu/transpose.h"

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
  ChunkScan(const ScanShape<T>& shape, Arena& arena, Ahead& ahead)
      : s_(shape),
        ahead_(ahead),
        P_(take(arena, shape.Kp)),
        R_(take(arena, shape.Kp)),
        first_half_(arena.take<T>(shape.Kp)),
        second_half_(arena.take<T>(shape.Kp)),
        whole_(arena.take<T>(shape.Kp)),
        qP_(take(arena, shape.queries() * shape.Kp)),
        kR_(take(arena, shape.Kp)),
        halves_(shape, arena),
        A_(take(arena, shape.queries() * kChunk)),
        u_(take(arena, shape.Vp)),
        error_(take(arena, shape.Vp)),
        o_(take(arena, shape.queries() * shape.Vp)) {}

  /// The outputs of a chunk whose state before is S [K][Sp]: [queries][kChunk][Vp], the first `group` of them the
  /// query heads', valid until the next call. S stays.
  const T* outputs(const ScanRows<T>& x, const T* S) {
    prepare(x);
    each_panel([&](int64_t c, int64_t n) { read(x, S, c, n); });
    return o_;
  }
  /// The same, and S to after the chunk, while it is at hand.
  const T* forward(const ScanRows<T>& x, T* S) {
    prepare(x);
    each_panel([&](int64_t c, int64_t n) {
      read(x, S, c, n);
      ahead_.some();
      write(x, S, S, c, n);
    });
    return o_;
  }
  /// Only the state after the chunk, into `to`.
  void advance(const ScanRows<T>& x, const T* from, T* to) {
    prepare_keys(x);
    if (s_.delta_rule) {
      prepare_queries(x, s_.group);
      scores(x, s_.group);
    }
    each_panel([&](int64_t c, int64_t n) {
      if (s_.delta_rule) {
        read_state(s_.group, 1, from, c, n);
        solve(x, c, n);
      }
      write(x, from, to, c, n);
    });
  }

 protected:
  // What parts in the middle: queries of the second half, keys of the first, and their decays.
  struct Halves {
    T *P, *R;  ///< [kHalf][Kp]: a_h ... a_i for i >= h, and a_{j+1} ... a_{h-1} for j < h
    T *q, *k;  ///< [queries][kHalf][Kp], [kHalf][Kp]

    Halves(const ScanShape<T>& s, Arena& arena)
        : P(arena.take<T>(kHalf * s.Kp)),
          R(arena.take<T>(kHalf * s.Kp)),
          q(arena.take<T>(s.queries() * kHalf * s.Kp)),
          k(arena.take<T>(kHalf * s.Kp)) {}
  };

  static T* take(Arena& arena, int64_t row) { return arena.take<T>(kChunk * row); }
  // A of a query head, keys in rows: A_ij at [j][i].
  T* A(int64_t query) { return A_ + query * kChunk * kChunk; }

  template <typename Body>
  void each_panel(const Body& body) {
    for (int64_t c = 0; c < s_.Vp; c += kPanel<T>) {
      ahead_.some();
      body(c, s_.Vp - c < kPanel<T> ? s_.Vp - c : kPanel<T>);
    }
  }

  template <typename Body>
  void each_vector(const Body& body) const {
    for (int64_t d = 0; d < s_.Kp; d += kWidth<T>) body(d);
  }

  // For all queries.
  void prepare(const ScanRows<T>& x) {
    prepare_keys(x);
    prepare_queries(x, 0);
    scores(x, 0);
  }
  // Row by row, since columns would meet in few cache sets. What the state needs: the decays of the whole chunk and
  // from each key to its end,
  void prepare_keys(const ScanRows<T>& x) {
    const int64_t half = kHalf * s_.Kp;
    decays_from_here(x.a, halves_.R);
    decays_from_here(x.a + half, R_ + half);
    each_vector([&](int64_t d) {
      const Vec<T> first = load(halves_.R + d) * load(x.a + d), second = load(R_ + half + d) * load(x.a + half + d);
      store(first_half_ + d, first);
      store(second_half_ + d, second);
      store(whole_ + d, first * second);
    });
    for (int64_t at = 0; at < half; at += s_.Kp)
      each_vector([&](int64_t d) {
        const Vec<T> R = load(halves_.R + at + d) * load(second_half_ + d);
        store(R_ + at + d, R);
        store(kR_ + at + d, load(x.k + at + d) * R);
        store(kR_ + half + at + d, load(x.k + half + at + d) * load(R_ + half + at + d));
      });
  }
  // and what the queries from `first` on do: the decays to each of them, and what meets in the middle.
  void prepare_queries(const ScanRows<T>& x, int64_t first) {
    const int64_t Kp = s_.Kp, half = kHalf * Kp;
    if (s_.delta_rule) std::memcpy(x.q + s_.group * kChunk * Kp, x.k, sizeof(T) * static_cast<size_t>(kChunk * Kp));
    decays_to_here(x.a, P_);
    decays_to_here(x.a + half, halves_.P);
    for (int64_t at = 0; at < half; at += Kp)
      each_vector([&](int64_t d) {
        store(P_ + half + at + d, load(halves_.P + at + d) * load(first_half_ + d));
        store(halves_.k + at + d, load(x.k + at + d) * load(halves_.R + at + d));
      });
    for (int64_t h = first; h < s_.queries(); ++h)
      for (int64_t at = 0; at < half; at += Kp) {
        const int64_t early = h * kChunk * Kp + at, late = early + half;
        each_vector([&](int64_t d) {
          const Vec<T> q = load(x.q + late + d);
          store(qP_ + early + d, load(x.q + early + d) * load(P_ + at + d));
          store(qP_ + late + d, q * load(P_ + half + at + d));
          store(halves_.q + h * half + at + d, q * load(halves_.P + at + d));
        });
      }
  }
  // Of half a chunk's tokens: the decays from its start to each query.
  void decays_to_here(const T* a, T* P) const {
    for (int64_t i = 0; i < kHalf; ++i) {
      const int64_t here = i * s_.Kp, before = here - s_.Kp;
      each_vector([&](int64_t d) {
        const Vec<T> product = i == 0 ? splat(T(1)) : load(P + before + d);
        if (s_.reads_before_decay) {
          store(P + here + d, i == 0 ? product : product * load(a + before + d));
        } else {
          store(P + here + d, product * load(a + here + d));
        }
      });
    }
  }
  // From each key to its end.
  void decays_from_here(const T* a, T* R) const {
    for (int64_t i = kHalf - 1; i >= 0; --i) {
      const int64_t next = (i + 1) * s_.Kp;
      each_vector([&](int64_t d) {
        store(R + i * s_.Kp + d, i == kHalf - 1 ? splat(T(1)) : load(R + next + d) * load(a + next + d));
      });
    }
  }

  // A of the queries from `first` on, zeros for keys that come later; B has a zero diagonal too.
  void scores(const ScanRows<T>& x, int64_t first) {
    for (int64_t h = first; h < s_.queries(); ++h) {
      for (int64_t half = 0; half < kChunk; half += kHalf) {
        const int64_t at = half * s_.Kp;
        const T* q = x.q + h * kChunk * s_.Kp + at;
        T* to = A(h) + half * kChunk + half;
        if (s_.reads_before_decay) {
          scores_of_half<true>(q, x.k + at, x.a + at, to);
        } else {
          scores_of_half<false>(q, x.k + at, x.a + at, to);
        }
      }
      scores_across(halves_.q + h * kHalf * s_.Kp, A(h) + kHalf);
    }
    if (s_.delta_rule)
      for (int64_t i = 0; i < kChunk; ++i) A(s_.group)[i * kChunk + i] = 0;
  }

  template <bool kReadsBefore>
  void scores_of_half(const T* q, const T* k, const T* a, T* to) const {
    const int64_t Kp = s_.Kp;
#pragma GCC unroll 16
    for (int64_t j = 0; j < kHalf; ++j) {
      Vec<T> total[kHalf] = {};
      for (int64_t d = 0; d < Kp; d += kWidth<T>) {
        Vec<T> w = load(k + j * Kp + d);
        total[j] += load(q + j * Kp + d) * w;
#pragma GCC unroll 16
        for (int64_t i = j + 1; i < kHalf; ++i) {
          if (!kReadsBefore) w *= load(a + i * Kp + d);
          total[i] += load(q + i * Kp + d) * w;
          if (kReadsBefore) w *= load(a + i * Kp + d);
        }
      }
      sum_lanes<T>(total, to + j * kChunk);
    }
  }
  void scores_across(const T* q, T* to) const {
    for (int64_t j = 0; j < kHalf; ++j) {
      Vec<T> total[kHalf] = {};
      for (int64_t d = 0; d < s_.Kp; d += kWidth<T>) {
        const Vec<T> k = load(halves_.k + j * s_.Kp + d);
#pragma GCC unroll 16
        for (int64_t i = 0; i < kHalf; ++i) total[i] += load(q + i * s_.Kp + d) * k;
      }
      sum_lanes<T>(total, to + j * kChunk);
    }
  }

  // The n columns of a panel from c on. First o = (q P)^T S, for the delta rule's key w as well,
  void read_state(int64_t first, int64_t queries, const T* S, int64_t c, int64_t n) {
    const int64_t skip = first * kChunk;
    product<Into::kSet>(queries * kChunk, n, s_.K,
                        Product<T>{qP_ + skip * s_.Kp, s_.Kp, 1, S + c, s_.Sp, o_ + skip * s_.Vp + c, s_.Vp});
  }
  // then for the delta rule u by forward substitution,
  void solve(const ScanRows<T>& x, int64_t c, int64_t n) {
    const int64_t Vp = s_.Vp;
    const T *w = o_ + s_.group * kChunk * Vp, *B = A(s_.group);
    for (int64_t d = c; d < c + n; d += kWidth<T>)
      for (int64_t i = 0; i < kChunk; ++i) {
        Vec<T> error = load(x.v + i * Vp + d) - load(w + i * Vp + d);
        for (int64_t j = 0; j < i; ++j) error -= B[j * kChunk + i] * load(u_ + j * Vp + d);
        store(error_ + i * Vp + d, error);
        store(u_ + i * Vp + d, error * x.b[i]);
      }
  }
  // then what the chunk's own tokens add to o,
  void read(const ScanRows<T>& x, const T* S, int64_t c, int64_t n) {
    read_state(0, s_.queries(), S, c, n);
    if (s_.delta_rule) solve(x, c, n);
    ahead_.some();
    for (int64_t h = 0; h < s_.group; ++h)
      product<Into::kAddLower>(kChunk, n, kChunk,
                               Product<T>{A(h), 1, kChunk, written(x) + c, s_.Vp, o_ + h * kChunk * s_.Vp + c, s_.Vp});
  }
  // and the state after it.
  void write(const ScanRows<T>& x, const T* from, T* to, int64_t c, int64_t n) {
    product<Into::kScale>(s_.K, n, kChunk,
                          Product<T>{kR_, 1, s_.Kp, written(x) + c, s_.Vp, to + c, s_.Sp, from + c, whole_});
  }
  /// The values that the chunk writes into the state.
  const T* written(const ScanRows<T>& x) const { return s_.delta_rule ? u_ : x.v; }

  ScanShape<T> s_;
  Ahead& ahead_;
  T *P_, *R_;                              // [kChunk][Kp]
  T *first_half_, *second_half_, *whole_;  // [Kp], the decay of each half and of both
  T *qP_, *kR_;                            // [queries][kChunk][Kp], [kChunk][Kp]
  Halves halves_;
  T* A_;                // [queries][kChunk][kChunk]
  T *u_, *error_, *o_;  // [kChunk][Vp] twice, [queries][kChunk][Vp]
};

}  // namespace
}  // namespace liger
