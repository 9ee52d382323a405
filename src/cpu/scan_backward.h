// The gradient of a chunk of scan.h. With dA_ij = do_i . u_j and dS the gradient of the state after the chunk:
//   du_j = sum_i A_ij do_i + (k_j R_j)^T dS,   dS_before = diag(P) dS + sum_i (q_i P_i) do_i^T,
//   dq_i = P_i (S do_i) + sum_j dA_ij (k_j a_{j+1} ... a_i),
//   dk_j = R_j (dS u_j) + sum_i dA_ij (q_i a_{j+1} ... a_i),
//   dg_t = everything that crosses the decay of token t: from the state before or from tokens j < t, to the state after
//          or to queries i >= t. It is summed as it stands, never as a difference of two large sums, so that a gradient
//          of e^-50 is right too.
// For the delta rule du goes backwards through the substitution: dw_i = -b_i du_i is the output gradient of the
// key's own query.
#pragma once

#include "cpu/scan.h"

namespace liger {
namespace {

template <typename T>
struct ScanGradients {
  T* q;  ///< [queries][kChunk][Kp]; the delta rule's last block is added to k
  T* k;  ///< [kChunk][Kp]
  T* v;  ///< [kChunk][Vp]
  T* g;  ///< [kChunk][Kp], of log a
  T* b;  ///< [kChunk]

  ScanGradients(const ScanShape<T>& s, Arena& arena)
      : q(arena.take<T>(s.queries() * kChunk * s.Kp)),
        k(arena.take<T>(kChunk * s.Kp)),
        v(arena.take<T>(kChunk * s.Vp)),
        g(arena.take<T>(kChunk * s.Kp)),
        b(arena.take<T>(kChunk)) {}
};

template <typename T>
class ChunkScanBackward : public ChunkScan<T> {
 public:
  ChunkScanBackward(const ScanShape<T>& shape, Arena& arena, Ahead& ahead)
      : ChunkScan<T>(shape, arena, ahead),
        do_(this->take(arena, shape.queries() * shape.Vp)),
        do_t_(this->take(arena, shape.queries() * shape.Vp)),
        u_t_(this->take(arena, shape.Vp)),
        dqP_t_(this->take(arena, shape.queries() * shape.Kp)),
        dkR_t_(this->take(arena, shape.Kp)),
        dqP_(this->take(arena, shape.queries() * shape.Kp)),
        dkR_(this->take(arena, shape.Kp)),
        dA_(this->take(arena, shape.queries() * kChunk)),
        through_(arena.take<T>(shape.Kp)),
        dq_half_(arena.take<T>(shape.queries() * kHalf * shape.Kp)),
        dk_half_(arena.take<T>(kHalf * shape.Kp)) {}

  /// `S` [K][Sp] is the state before the chunk, `grad_o` [group][kChunk][Vp] (zeros past the end); `dS` [K][Sp] comes
  /// in as the gradient of the state after the chunk and leaves as that of `S`.
  void backward(const ScanRows<T>& x, const T* S, const T* grad_o, T* dS, const ScanGradients<T>& d) {
    this->prepare(x);
    if (s_.delta_rule)
      this->each_panel([&](int64_t c, int64_t n) {
        this->read_state(s_.group, 1, S, c, n);
        this->solve(x, c, n);
      });
    std::memcpy(do_, grad_o, sizeof(T) * static_cast<size_t>(s_.group * kChunk * s_.Vp));
    values(x, dS, d);
    states(this->written(x), S, dS);
    within_halves(x, d);
    across_halves(d);
    to_and_from_state(d);
  }

 private:
  using ChunkScan<T>::s_;
  using ChunkScan<T>::halves_;

  // du, and through the delta rule's substitution dv, db and dw (the last block of do_).
  void values(const ScanRows<T>& x, const T* dS, const ScanGradients<T>& d) {
    const int64_t Vp = s_.Vp;
    this->each_panel([&](int64_t c, int64_t n) {
      product<Into::kSet>(kChunk, n, s_.K, Product<T>{this->kR_, s_.Kp, 1, dS + c, s_.Sp, d.v + c, Vp});
    });
    for (int64_t h = 0; h < s_.group; ++h)
      product<Into::kAddUpper>(kChunk, Vp, kChunk,
                               Product<T>{this->A(h), kChunk, 1, do_ + h * kChunk * Vp, Vp, d.v, Vp});
    if (!s_.delta_rule) return;
    const T* B = this->A(s_.group);
    T* dw = do_ + s_.group * kChunk * Vp;
    for (int64_t i = kChunk - 1; i >= 0; --i) {
      Vec<T> db = {};
      for (int64_t c = 0; c < Vp; c += kWidth<T>) {
        Vec<T> du = load(d.v + i * Vp + c);
        for (int64_t l = i + 1; l < kChunk; ++l) du += B[i * kChunk + l] * load(dw + l * Vp + c);
        db += du * load(this->error_ + i * Vp + c);
        store(d.v + i * Vp + c, du * x.b[i]);
        store(dw + i * Vp + c, du * -x.b[i]);
      }
      d.b[i] = sum<T>(db);
    }
  }

  // dA = do u^T; then, some rows of both states at a time: S do^T and dS u^T, turned to rows of tokens; what passes
  // through the whole chunk from state to state, for dg; and dS to before the chunk.
  void states(const T* u, const T* S, T* dS) {
    const int64_t rows = s_.queries() * kChunk, Vp = s_.Vp;
    transpose(kChunk, Vp, u, Vp, u_t_, kChunk);
    transpose(rows, Vp, do_, Vp, do_t_, rows);
    product<Into::kSet>(rows, kChunk, s_.V, Product<T>{do_, Vp, 1, u_t_, kChunk, dA_, kChunk});
    if (s_.delta_rule)
      for (int64_t i = 0; i < kChunk; ++i) dA_[(s_.group * kChunk + i) * kChunk + i] = 0;
    constexpr int64_t kRows = 12;
    for (int64_t r = 0; r < s_.K; r += kRows) rows_of_states(r, s_.K - r < kRows ? s_.K - r : kRows, S, dS);
    transpose(s_.Kp, rows, dqP_t_, rows, dqP_, s_.Kp);
    transpose(s_.Kp, kChunk, dkR_t_, kChunk, dkR_, s_.Kp);
  }
  void rows_of_states(int64_t r, int64_t n, const T* S, T* dS) {
    const int64_t rows = s_.queries() * kChunk, Vp = s_.Vp;
    S += r * s_.Sp, dS += r * s_.Sp;
    this->ahead_.some();
    product<Into::kSet>(n, rows, s_.V, Product<T>{S, s_.Sp, 1, do_t_, rows, dqP_t_ + r * rows, rows});
    product<Into::kSet>(n, kChunk, s_.V, Product<T>{dS, s_.Sp, 1, u_t_, kChunk, dkR_t_ + r * kChunk, kChunk});
    this->ahead_.some();
    for (int64_t i = 0; i < n; ++i) {
      Vec<T> total = {};
      for (int64_t c = 0; c < Vp; c += kWidth<T>) total += load(S + i * s_.Sp + c) * load(dS + i * s_.Sp + c);
      through_[r + i] = sum<T>(total) * this->whole_[r + i];
    }
    product<Into::kScale>(n, Vp, rows, Product<T>{this->qP_ + r, 1, s_.Kp, do_, Vp, dS, s_.Sp, dS, this->whole_ + r});
  }

  void within_halves(const ScanRows<T>& x, const ScanGradients<T>& d) {
    for (int64_t half = 0; half < kChunk; half += kHalf)
      for (int64_t c = 0; c < s_.Kp; c += kWidth<T>) {
        if (s_.reads_before_decay) {
          within_half<true>(x, d, half, c);
        } else {
          within_half<false>(x, d, half, c);
        }
      }
  }

  // Forward in time keys decay (w, kept for each later token) and queries gather from them; backward in time what
  // queries send to keys decays (H), and where it crosses a decay it meets w.
  template <bool kReadsBefore>
  void within_half(const ScanRows<T>& x, const ScanGradients<T>& d, int64_t half, int64_t c) {
    const int64_t Kp = s_.Kp, Q = s_.queries();
    const auto row = [&](T* base, int64_t i) { return base + (half + i) * Kp + c; };
    const auto dA = [&](int64_t h, int64_t i) { return dA_ + (h * kChunk + half + i) * kChunk + half; };
    Vec<T> kept[kHalf][kHalf], w[kHalf], H[kHalf] = {};
#pragma GCC unroll 8
    for (int64_t i = 0; i < kHalf; ++i) {
      const Vec<T> a = load(row(x.a, i));
      const auto decay = [&] {
#pragma GCC unroll 8
        for (int64_t j = 0; j < i; ++j) kept[i][j] = w[j] *= a;
      };
      if (!kReadsBefore) decay();
      w[i] = load(row(x.k, i));
      for (int64_t h = 0; h < Q; ++h) {
        Vec<T> dq = dA(h, i)[i] * w[i];
#pragma GCC unroll 8
        for (int64_t j = 0; j < i; ++j) dq += dA(h, i)[j] * w[j];
        store(row(d.q, h * kChunk + i), dq);
      }
      if (kReadsBefore) decay();
    }
    const Vec<T> through = load(through_ + c);
#pragma GCC unroll 8
    for (int64_t later = 0; later < kHalf; ++later) {
      const int64_t i = kHalf - 1 - later;
      const Vec<T> a = load(row(x.a, i));
      const auto cross_decay = [&] {
        Vec<T> dg = through;
#pragma GCC unroll 8
        for (int64_t j = 0; j < i; ++j) {
          dg += kept[i][j] * H[j];
          H[j] *= a;
        }
        store(row(d.g, i), dg);
      };
      if (kReadsBefore) cross_decay();
      for (int64_t h = 0; h < Q; ++h) {
        const Vec<T> q = load(row(x.q, h * kChunk + i));
#pragma GCC unroll 8
        for (int64_t j = 0; j <= i; ++j) H[j] += dA(h, i)[j] * q;
      }
      if (!kReadsBefore) cross_decay();
      store(row(d.k, i), H[i]);
    }
  }

  // Queries of the second half and keys of the first, which meet in the middle.
  void across_halves(const ScanGradients<T>& d) {
    const int64_t Kp = s_.Kp, Q = s_.queries();
    std::memset(dk_half_, 0, sizeof(T) * static_cast<size_t>(kHalf * Kp));
    for (int64_t h = 0; h < Q; ++h) {
      const T* dA = dA_ + (h * kChunk + kHalf) * kChunk;
      const int64_t head = h * kHalf * Kp;
      product<Into::kSet>(kHalf, Kp, kHalf, Product<T>{dA, kChunk, 1, halves_.k, Kp, dq_half_ + head, Kp});
      product<Into::kAdd>(kHalf, Kp, kHalf, Product<T>{dA, 1, kChunk, halves_.q + head, Kp, dk_half_, Kp});
    }
    for (int64_t c = 0; c < Kp; c += kWidth<T>) {
      sent_by_queries(kHalf, halves_.q + c, dq_half_ + c, halves_.P + c, d.q + kHalf * Kp + c, d.g + kHalf * Kp + c);
      sent_by_keys(kHalf, halves_.k + c, dk_half_ + c, halves_.R + c, d.k + c, d.g + c);
    }
  }
  // What queries read from the state before, and what keys leave in the state after.
  void to_and_from_state(const ScanGradients<T>& d) {
    for (int64_t c = 0; c < s_.Kp; c += kWidth<T>) {
      sent_by_queries(kChunk, this->qP_ + c, dqP_ + c, this->P_ + c, d.q + c, d.g + c);
      sent_by_keys(kChunk, this->kR_ + c, dkR_ + c, this->R_ + c, d.k + c, d.g + c);
      if (!s_.delta_rule) continue;
      for (int64_t j = 0; j < kChunk; ++j) {
        const int64_t at = j * s_.Kp + c;
        store(d.k + at, load(d.k + at) + load(d.q + s_.group * kChunk * s_.Kp + at));
      }
    }
  }
  // Of n tokens' queries that were decayed by P from a common start, at the start of their column: dq += P dqP, and
  // every decay up to a query has its share of qP dqP.
  void sent_by_queries(int64_t n, const T* qP, const T* dqP, const T* P, T* dq, T* dg) {
    const int64_t Kp = s_.Kp, scaled_head = n * Kp, head = kChunk * Kp;
    Vec<T> later = {};
    for (int64_t i = n - 1; i >= 0; --i) {
      Vec<T> here = {};
      for (int64_t h = 0; h < s_.queries(); ++h) {
        const Vec<T> grad = load(dqP + h * scaled_head + i * Kp);
        here += load(qP + h * scaled_head + i * Kp) * grad;
        T* to = dq + h * head + i * Kp;
        store(to, load(to) + grad * load(P + i * Kp));
      }
      store(dg + i * Kp, load(dg + i * Kp) + later + (s_.reads_before_decay ? Vec<T>{} : here));
      later += here;
    }
  }
  // Of n tokens' keys that are decayed by R to a common end.
  void sent_by_keys(int64_t n, const T* kR, const T* dkR, const T* R, T* dk, T* dg) {
    Vec<T> earlier = {};
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = j * s_.Kp;
      store(dg + at, load(dg + at) + earlier);
      earlier += load(kR + at) * load(dkR + at);
      store(dk + at, load(dk + at) + load(dkR + at) * load(R + at));
    }
  }

  T *do_, *do_t_, *u_t_;  // [queries][kChunk][Vp], its transpose, u transposed
  T *dqP_t_, *dkR_t_, *dqP_, *dkR_;
  T* dA_;                  // [queries][kChunk][kChunk]
  T* through_;             // [Kp]
  T *dq_half_, *dk_half_;  // of halves_.q and .k
};

}  // namespace
}  // namespace liger
