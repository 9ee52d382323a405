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

/// from [rows][columns] with rows of from_row -> to [columns][rows] with rows of to_row.
template <typename T>
inline void transpose(int64_t rows, int64_t columns, const T* from, int64_t from_row, T* to, int64_t to_row) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * to_row + r] = from[r * from_row + c];
}

template <typename T>
class ChunkScanBackward : public ChunkScan<T> {
 public:
  ChunkScanBackward(const ScanShape<T>& shape, Arena& arena)
      : ChunkScan<T>(shape, arena),
        do_(this->take(arena, shape.queries() * shape.Vp)),
        do_t_(this->take(arena, shape.queries() * shape.Vp)),
        u_t_(this->take(arena, shape.Vp)),
        dqP_t_(this->take(arena, shape.queries() * shape.Kp)),
        dkR_t_(this->take(arena, shape.Kp)),
        dqP_(this->take(arena, shape.queries() * shape.Kp)),
        dkR_(this->take(arena, shape.Kp)),
        dA_(this->take(arena, shape.queries() * kChunk)) {}

  /// `S` [K][Sp] is the state before the chunk, `grad_o` [group][kChunk][Vp] (zeros past the end); `dS` [K][Sp] comes
  /// in as the gradient of the state after the chunk and leaves as that of `S`.
  void backward(const ScanRows<T>& x, const T* S, const T* grad_o, T* dS, const ScanGradients<T>& d) {
    this->prepare(x);
    this->scores(x, 0);
    if (s_.delta_rule) this->read_state(s_.group, 1, S);
    const T* u = this->solve(x);
    std::memcpy(do_, grad_o, sizeof(T) * static_cast<size_t>(s_.group * kChunk * s_.Vp));
    values(x, dS, d);
    inner_products(u, S, dS);
    update_state(S, dS, d.g);
    between_tokens(x, d);
    to_and_from_state(d);
  }

 private:
  using ChunkScan<T>::s_;

  // du, and through the delta rule's substitution dv, db and dw (the last block of do_).
  void values(const ScanRows<T>& x, const T* dS, const ScanGradients<T>& d) {
    const int64_t Vp = s_.Vp;
    product<Into::kSet>(kChunk, Vp, s_.K, Product<T>{this->kR_, s_.Kp, 1, dS, s_.Sp, d.v, Vp});
    for (int64_t h = 0; h < s_.group; ++h)
      product<Into::kAdd>(kChunk, Vp, kChunk,
                          Product<T>{this->A(h), 1, kChunk, do_ + h * kChunk * Vp, Vp, d.v, Vp});
    if (!s_.delta_rule) return;
    const T* B = this->A(s_.group);
    T* dw = do_ + s_.group * kChunk * Vp;
    for (int64_t i = kChunk - 1; i >= 0; --i) {
      Vec<T> db = {};
      for (int64_t c = 0; c < Vp; c += kWidth<T>) {
        Vec<T> du = load(d.v + i * Vp + c);
        for (int64_t l = i + 1; l < kChunk; ++l) du += B[l * kChunk + i] * load(dw + l * Vp + c);
        db += du * load(this->error_ + i * Vp + c);
        store(d.v + i * Vp + c, du * x.b[i]);
        store(dw + i * Vp + c, du * -x.b[i]);
      }
      d.b[i] = sum<T>(db);
    }
  }

  // dA = do u^T, S do^T and dS u^T, the last two turned back to rows of tokens.
  void inner_products(const T* u, const T* S, const T* dS) {
    const int64_t rows = s_.queries() * kChunk, Kp = s_.Kp, Vp = s_.Vp;
    transpose(kChunk, s_.V, u, Vp, u_t_, kChunk);
    transpose(rows, s_.V, do_, Vp, do_t_, rows);
    product<Into::kSet>(rows, kChunk, s_.V, Product<T>{do_, Vp, 1, u_t_, kChunk, dA_, kChunk});
    if (s_.delta_rule)
      for (int64_t i = 0; i < kChunk; ++i) dA_[(s_.group * kChunk + i) * kChunk + i] = 0;
    product<Into::kSet>(s_.K, rows, s_.V, Product<T>{S, s_.Sp, 1, do_t_, rows, dqP_t_, rows});
    product<Into::kSet>(s_.K, kChunk, s_.V, Product<T>{dS, s_.Sp, 1, u_t_, kChunk, dkR_t_, kChunk});
    transpose(s_.K, rows, dqP_t_, rows, dqP_, Kp);
    transpose(s_.K, kChunk, dkR_t_, kChunk, dkR_, Kp);
  }

  // dg of what passes through the whole chunk from state to state, then dS to before the chunk.
  void update_state(const T* S, T* dS, T* dg) {
    const int64_t Vp = s_.Vp;
    for (int64_t i = 0; i < s_.K; ++i) {
      Vec<T> total = {};
      for (int64_t c = 0; c < Vp; c += kWidth<T>) total += load(S + i * s_.Sp + c) * load(dS + i * s_.Sp + c);
      dg[i] = sum<T>(total) * this->whole_[i];
    }
    for (int64_t i = s_.K; i < s_.Kp; ++i) dg[i] = 0;
    for (int64_t t = 1; t < kChunk; ++t) std::memcpy(dg + t * s_.Kp, dg, sizeof(T) * static_cast<size_t>(s_.Kp));
    product<Into::kScale>(s_.K, Vp, s_.queries() * kChunk,
                          Product<T>{this->qP_, 1, s_.Kp, do_, Vp, dS, s_.Sp, this->whole_});
  }

  void between_tokens(const ScanRows<T>& x, const ScanGradients<T>& d) {
    for (int64_t c = 0; c < s_.Kp; c += kWidth<T>) {
      if (s_.reads_before_decay) {
        between_tokens_of<true>(x, d, c);
      } else {
        between_tokens_of<false>(x, d, c);
      }
    }
  }

  // For a key j: w_i is the key decayed to token i, H what later queries send back to it.
  template <bool kReadsBefore>
  void between_tokens_of(const ScanRows<T>& x, const ScanGradients<T>& d, int64_t c) {
    const int64_t Kp = s_.Kp, Q = s_.queries();
    const auto row = [&](T* base, int64_t i) { return base + i * Kp + c; };
    const auto queries_of = [&](int64_t i, int64_t j) {
      Vec<T> total = dA_[i * kChunk + j] * load(row(x.q, i));
      for (int64_t h = 1; h < Q; ++h)
        total += dA_[(h * kChunk + i) * kChunk + j] * load(row(x.q, h * kChunk + i));
      return total;
    };
    const auto add_to_queries = [&](int64_t i, int64_t j, Vec<T> w) {
      for (int64_t h = 0; h < Q; ++h) {
        T* dq = row(d.q, h * kChunk + i);
        const Vec<T> now = dA_[(h * kChunk + i) * kChunk + j] * w;
        store(dq, j == 0 ? now : load(dq) + now);
      }
    };
    for (int64_t j = 0; j < kChunk; ++j) {
      Vec<T> w[kChunk];
      w[j] = load(row(x.k, j));
      add_to_queries(j, j, w[j]);
      for (int64_t i = j + 1; i < kChunk; ++i) {
        w[i] = w[i - 1] * load(row(x.a, i));
        add_to_queries(i, j, kReadsBefore ? w[i - 1] : w[i]);
      }
      Vec<T> H = {};
      for (int64_t i = kChunk - 1; i > j; --i) {
        if (!kReadsBefore) H += queries_of(i, j);
        store(row(d.g, i), load(row(d.g, i)) + w[i] * H);
        H *= load(row(x.a, i));
        if (kReadsBefore) H += queries_of(i, j);
      }
      store(row(d.k, j), H + queries_of(j, j));
    }
  }

  // What queries read from the state before, and what keys leave in the state after.
  void to_and_from_state(const ScanGradients<T>& d) {
    const int64_t Kp = s_.Kp, Q = s_.queries();
    for (int64_t c = 0; c < Kp; c += kWidth<T>) {
      Vec<T> later = {};
      for (int64_t i = kChunk - 1; i >= 0; --i) {
        Vec<T> here = {};
        for (int64_t h = 0; h < Q; ++h) {
          const int64_t at = (h * kChunk + i) * Kp + c;
          const Vec<T> from_state = load(dqP_ + at);
          here += load(this->qP_ + at) * from_state;
          store(d.q + at, load(d.q + at) + from_state * load(this->P_ + i * Kp + c));
        }
        T* dg = d.g + i * Kp + c;
        store(dg, load(dg) + later + (s_.reads_before_decay ? Vec<T>{} : here));
        later += here;
      }
      Vec<T> earlier = {};
      for (int64_t j = 0; j < kChunk; ++j) {
        const int64_t at = j * Kp + c;
        store(d.g + at, load(d.g + at) + earlier);
        const Vec<T> to_state = load(dkR_ + at);
        earlier += load(this->kR_ + at) * to_state;
        Vec<T> dk = load(d.k + at) + to_state * load(this->R_ + at);
        if (s_.delta_rule) dk += load(d.q + s_.group * kChunk * Kp + at);
        store(d.k + at, dk);
      }
    }
  }

  T *do_, *do_t_, *u_t_;  // [queries][kChunk][Vp], its transpose, u transposed
  T *dqP_t_, *dkR_t_, *dqP_, *dkR_;
  T* dA_;  // [queries][kChunk][kChunk]
};

}  // namespace
}  // namespace liger
