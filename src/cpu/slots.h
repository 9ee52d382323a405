// The first pass of gated slot attention (core/structure.h), whose decay acts on the columns of the state:
//   S_t = S_{t-1} diag(a_t) + k_t s_t^T,   z_t = S_t^T q_t.
// As in scan.h, decays between two tokens are products of a:
//   z_i = P_i (S^T q_i) + sum_{j<=i} (q_i . k_j) (s_j a_{j+1} ... a_i),   S_new = S diag(P) + sum_j k_j (s_j R_j)^T.
#pragma once

#include "cpu/scan_backward.h"

namespace liger {
namespace {

template <typename T>
struct SlotRows {
  T *q, *k;  ///< [group][kChunk][Kp], [kChunk][Kp]; zeros past the end
  T *s, *a;  ///< [kChunk][Mp]; 0 and 1 past the end
};

template <typename T>
class ChunkSlots {
 public:
  ChunkSlots(int64_t group, int64_t K, int64_t M, Arena& arena)
      : group_(group),
        K_(K),
        M_(M),
        k_t_(arena.take<T>(kChunk * Kp_)),
        A_(arena.take<T>(group * kChunk * kChunk)),
        P_(arena.take<T>(kChunk * Mp_)),
        R_(arena.take<T>(kChunk * Mp_)),
        sR_(arena.take<T>(kChunk * Mp_)),
        whole_(arena.take<T>(Mp_)),
        read_(arena.take<T>(group * kChunk * Mp_)) {}

  /// z [group][kChunk][Mp] of a chunk whose state before is S [K][Sp], which stays.
  void outputs(const SlotRows<T>& x, const T* S, T* z) {
    prepare(x);
    read(x, S);
    std::memcpy(z, read_, sizeof(T) * static_cast<size_t>(group_ * kChunk * Mp_));
    for (int64_t c = 0; c < Mp_; c += kWidth<T>) within(x, z, c);
  }
  /// The state after the chunk into `to`.
  void advance(const SlotRows<T>& x, const T* from, T* to) {
    prepare(x);
    for (int64_t r = 0; r < K_; ++r)
      for (int64_t c = 0; c < Mp_; c += kWidth<T>) store(to + r * Sp_ + c, load(from + r * Sp_ + c) * load(whole_ + c));
    product<Into::kAdd>(K_, Mp_, kChunk, Product<T>{x.k, 1, Kp_, sR_, Mp_, to, Sp_});
  }

 protected:
  T* A(int64_t head) { return A_ + head * kChunk * kChunk; }

  void prepare(const SlotRows<T>& x) {
    for (int64_t c = 0; c < Mp_; c += kWidth<T>) {
      Vec<T> product = splat(T(1));
      for (int64_t i = 0; i < kChunk; ++i) {
        product *= load(x.a + i * Mp_ + c);
        store(P_ + i * Mp_ + c, product);
      }
      store(whole_ + c, product);
      product = splat(T(1));
      for (int64_t i = kChunk - 1; i >= 0; --i) {
        store(R_ + i * Mp_ + c, product);
        store(sR_ + i * Mp_ + c, load(x.s + i * Mp_ + c) * product);
        product *= load(x.a + i * Mp_ + c);
      }
    }
    transpose(kChunk, Kp_, x.k, Kp_, k_t_, kChunk);
    product<Into::kSet>(group_ * kChunk, kChunk, K_, Product<T>{x.q, Kp_, 1, k_t_, kChunk, A_, kChunk});
  }

  // read_ = P (S^T q).
  void read(const SlotRows<T>& x, const T* S) {
    product<Into::kSet>(group_ * kChunk, Mp_, K_, Product<T>{x.q, Kp_, 1, S, Sp_, read_, Mp_});
    for (int64_t r = 0; r < group_ * kChunk; ++r)
      for (int64_t c = 0; c < Mp_; c += kWidth<T>)
        store(read_ + r * Mp_ + c, load(read_ + r * Mp_ + c) * load(P_ + (r % kChunk) * Mp_ + c));
  }

  void within(const SlotRows<T>& x, T* z, int64_t c) {
    for (int64_t h = 0; h < group_; ++h) {
      Vec<T> total[kChunk];
      for (int64_t i = 0; i < kChunk; ++i) total[i] = load(z + (h * kChunk + i) * Mp_ + c);
#pragma GCC unroll 16
      for (int64_t j = 0; j < kChunk; ++j) {
        Vec<T> w = load(x.s + j * Mp_ + c);
        total[j] += A(h)[j * kChunk + j] * w;
#pragma GCC unroll 16
        for (int64_t i = j + 1; i < kChunk; ++i) {
          w *= load(x.a + i * Mp_ + c);
          total[i] += A(h)[i * kChunk + j] * w;
        }
      }
      for (int64_t i = 0; i < kChunk; ++i) store(z + (h * kChunk + i) * Mp_ + c, total[i]);
    }
  }

  int64_t group_, K_, M_, Kp_ = padded<T>(K_), Mp_ = padded<T>(M_), Sp_ = state_stride<T>(M_);
  T *k_t_, *A_;                       // keys transposed; q . k of all pairs [group][kChunk][kChunk]
  T *P_, *R_, *sR_, *whole_, *read_;  // [kChunk][Mp] three times, [Mp], [group][kChunk][Mp]
};

template <typename T>
class ChunkSlotsBackward : public ChunkSlots<T> {
 public:
  ChunkSlotsBackward(int64_t group, int64_t K, int64_t M, Arena& arena)
      : ChunkSlots<T>(group, K, M, arena),
        dzP_(arena.take<T>(group * kChunk * Mp_)),
        dzP_t_(arena.take<T>(group * kChunk * Mp_)),
        s_t_(arena.take<T>(kChunk * Mp_)),
        dA_(arena.take<T>(group * kChunk * kChunk)),
        dq_t_(arena.take<T>(group * kChunk * Kp_)),
        dk_t_(arena.take<T>(kChunk * Kp_)),
        pairs_(arena.take<T>(group * kChunk * kChunk * kWidth<T>)),
        from_state_(arena.take<T>(kChunk * Mp_)) {}

  /// `dz` [group][kChunk][Mp]; writes dq, dk; adds to ds and dg [kChunk][Mp]; dS [K][Sp] as in ChunkScanBackward.
  void backward(const SlotRows<T>& x, const T* S, const T* dz, T* dS, T* dq, T* dk, T* ds, T* dg) {
    this->prepare(x);
    this->read(x, S);
    for (int64_t r = 0; r < group_ * kChunk; ++r)
      for (int64_t c = 0; c < Mp_; c += kWidth<T>)
        store(dzP_ + r * Mp_ + c, load(dz + r * Mp_ + c) * load(this->P_ + (r % kChunk) * Mp_ + c));
    // What leaves for the state after: k_j^T dS.
    product<Into::kSet>(kChunk, Mp_, K_, Product<T>{x.k, Kp_, 1, dS, Sp_, from_state_, Mp_});
    between_tokens(x, dz, ds, dg);
    to_and_from_state(S, dz, dS, ds, dg);
    queries_and_keys(x, S, dS, dq, dk);
    for (int64_t r = 0; r < K_; ++r)
      for (int64_t c = 0; c < Mp_; c += kWidth<T>)
        store(dS + r * Sp_ + c, load(dS + r * Sp_ + c) * load(this->whole_ + c));
    product<Into::kAdd>(K_, Mp_, group_ * kChunk, Product<T>{x.q, 1, Kp_, dzP_, Mp_, dS, Sp_});
  }

 private:
  using ChunkSlots<T>::group_;
  using ChunkSlots<T>::K_;
  using ChunkSlots<T>::M_;
  using ChunkSlots<T>::Kp_;
  using ChunkSlots<T>::Mp_;
  using ChunkSlots<T>::Sp_;

  // dA_ij = dz_i . (s_j a_{j+1} ... a_i), and what goes to s and to the decays between j and i.
  void between_tokens(const SlotRows<T>& x, const T* dz, T* ds, T* dg) {
    std::memset(pairs_, 0, sizeof(T) * static_cast<size_t>(group_ * kChunk * kChunk * kWidth<T>));
    for (int64_t c = 0; c < Mp_; c += kWidth<T>) {
      const auto row = [&](auto* base, int64_t i) { return base + i * Mp_ + c; };
      const auto sent_back = [&](int64_t i, int64_t j) {
        Vec<T> total = {};
        for (int64_t h = 0; h < group_; ++h) total += this->A(h)[i * kChunk + j] * load(row(dz, h * kChunk + i));
        return total;
      };
      for (int64_t j = 0; j < kChunk; ++j) {
        Vec<T> w[kChunk];
        for (int64_t i = j; i < kChunk; ++i) {
          w[i] = i == j ? load(row(x.s, j)) : w[i - 1] * load(row(x.a, i));
          for (int64_t h = 0; h < group_; ++h) {
            T* pair = pairs_ + ((h * kChunk + i) * kChunk + j) * kWidth<T>;
            store(pair, load(pair) + load(row(dz, h * kChunk + i)) * w[i]);
          }
        }
        Vec<T> H = {};
        for (int64_t i = kChunk - 1; i > j; --i) {
          H += sent_back(i, j);
          store(row(dg, i), load(row(dg, i)) + w[i] * H);
          H *= load(row(x.a, i));
        }
        store(row(ds, j), load(row(ds, j)) + H + sent_back(j, j));
      }
    }
    for (int64_t p = 0; p < group_ * kChunk * kChunk; ++p) dA_[p] = sum<T>(load(pairs_ + p * kWidth<T>));
  }

  void to_and_from_state(const T* S, const T* dz, const T* dS, T* ds, T* dg) {
    for (int64_t c = 0; c < Mp_; c += kWidth<T>) {
      Vec<T> through = {}, later = {}, earlier = {};
      for (int64_t r = 0; r < K_; ++r) through += load(S + r * Sp_ + c) * load(dS + r * Sp_ + c);
      through *= load(this->whole_ + c);
      for (int64_t i = kChunk - 1; i >= 0; --i) {
        for (int64_t h = 0; h < group_; ++h)
          later += load(dz + (h * kChunk + i) * Mp_ + c) * load(this->read_ + (h * kChunk + i) * Mp_ + c);
        store(dg + i * Mp_ + c, load(dg + i * Mp_ + c) + later + through);
      }
      for (int64_t j = 0; j < kChunk; ++j) {
        const int64_t at = j * Mp_ + c;
        store(dg + at, load(dg + at) + earlier);
        earlier += load(this->sR_ + at) * load(from_state_ + at);
        store(ds + at, load(ds + at) + load(this->R_ + at) * load(from_state_ + at));
      }
    }
  }

  // dq = S (P dz) + sum_j dA_ij k_j,   dk = dS (s R) + sum_i dA_ij q_i.
  void queries_and_keys(const SlotRows<T>& x, const T* S, const T* dS, T* dq, T* dk) {
    const int64_t rows = group_ * kChunk;
    transpose(rows, Mp_, dzP_, Mp_, dzP_t_, rows);
    transpose(kChunk, Mp_, this->sR_, Mp_, s_t_, kChunk);
    product<Into::kSet>(K_, rows, M_, Product<T>{S, Sp_, 1, dzP_t_, rows, dq_t_, rows});
    product<Into::kSet>(K_, kChunk, M_, Product<T>{dS, Sp_, 1, s_t_, kChunk, dk_t_, kChunk});
    transpose(Kp_, rows, dq_t_, rows, dq, Kp_);
    transpose(Kp_, kChunk, dk_t_, kChunk, dk, Kp_);
    for (int64_t h = 0; h < group_; ++h) {
      const T* dA = dA_ + h * kChunk * kChunk;
      product<Into::kAdd>(kChunk, Kp_, kChunk, Product<T>{dA, kChunk, 1, x.k, Kp_, dq + h * kChunk * Kp_, Kp_});
      product<Into::kAdd>(kChunk, Kp_, kChunk, Product<T>{dA, 1, kChunk, x.q + h * kChunk * Kp_, Kp_, dk, Kp_});
    }
  }

  T *dzP_, *dzP_t_, *s_t_, *dA_, *dq_t_, *dk_t_;
  T* pairs_;       // dA before its lanes are summed
  T* from_state_;  // [kChunk][Mp]
};

}  // namespace
}  // namespace liger
