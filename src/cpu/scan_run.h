// Scans whose inputs are ready (ScanHead).
#pragma once

#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/passes.h"
#include "cpu/scan_backward.h"

namespace liger {
namespace {

template <typename T, bool kBackward>
class ScanRun {
 public:
  using Scalar = T;
  using Pass = std::conditional_t<kBackward, ScanBackward, ScanForward>;

  ScanRun(const ScanHead& head, Workspace& space)
      : head_(head),
        shape_{head.group, head.K, head.V, head.delta_rule},
        ahead_(space.ahead),
        state_(space.own.take<T>(state_scalars())),
        rows_(shape_, space.shared),
        scan_(shape_, space.shared, space.ahead),
        grad_o_(space.shared.take<T>(kBackward ? head.group * kChunk * shape_.Vp : 0)),
        grads_(shape_, space.shared) {}

  int64_t state_scalars() const { return shape_.K * shape_.Sp; }

  void begin(const Pass& pass) {
    pass_ = pass;
    load_matrix(static_cast<const T*>(last_state()), shape_.K, shape_.V, state_, shape_.Sp);
  }
  void end() { store_matrix(state_, shape_.Sp, shape_.K, shape_.V, static_cast<T*>(last_state())); }

  const T* states() const { return state_; }
  auto* checkpoints() const { return static_cast<std::conditional_t<kBackward, const T, T>*>(pass_.checkpoints); }

  void forward(int64_t first, int64_t n)
    requires(!kBackward)
  {
    load_rows(first, n, /*queries=*/true);
    const T* o = scan_.forward(rows_, state_);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t h = 0; h < head_.group; ++h)
        store_row(o + (h * kChunk + i) * shape_.Vp, head_.V, to(pass_.o, first + i, head_.o_stride) + h * head_.V);
  }
  void advance(int64_t first, int64_t n, const T* from, T* to) {
    load_rows(first, n, /*queries=*/false);
    scan_.advance(rows_, from, to);
  }
  void backward(int64_t first, int64_t n, const T* before)
    requires kBackward
  {
    load_rows(first, n, /*queries=*/true);
    const T* grad_o = static_cast<const T*>(pass_.grad_o);
    each_row(n, [&](int64_t i, bool real) {
      for (int64_t h = 0; h < head_.group; ++h)
        load(real, grad_o + (first + i) * head_.o_stride + h * head_.V, head_.V,
             grad_o_ + (h * kChunk + i) * shape_.Vp);
    });
    scan_.backward(rows_, before, grad_o_, state_, grads_);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = first + i;
      for (int64_t h = 0; h < head_.group; ++h)
        store_row(grads_.q + (h * kChunk + i) * shape_.Kp, head_.K, to(pass_.dq, at, head_.q_stride) + h * head_.K);
      store_row(grads_.k + i * shape_.Kp, head_.K, to(pass_.dk, at, head_.k_stride));
      store_row(grads_.v + i * shape_.Vp, head_.V, to(pass_.dv, at, head_.v_stride));
      store_row(grads_.g + i * shape_.Kp, head_.K, to(pass_.dg, at, head_.k_stride));
      if (head_.delta_rule) *to(pass_.db, at, head_.b_stride) = grads_.b[i];
    }
  }

  void expect(int64_t first, int64_t n) {
    ahead_.add<T>(head_.q, first, n, head_.q_stride, head_.group * head_.K);
    expect_advance(first, n);
    if constexpr (!kBackward) ahead_.add<T>(pass_.o, first, n, head_.o_stride, head_.group * head_.V);
  }
  void expect_advance(int64_t first, int64_t n) {
    ahead_.add<T>(head_.k, first, n, head_.k_stride, head_.K);
    ahead_.add<T>(head_.v, first, n, head_.v_stride, head_.V);
    ahead_.add<T>(head_.g, first, n, head_.k_stride, head_.K);
  }
  void expect_backward(int64_t first, int64_t n)
    requires kBackward
  {
    expect(first, n);
    ahead_.add<T>(pass_.grad_o, first, n, head_.o_stride, head_.group * head_.V);
    ahead_.add<T>(pass_.dq, first, n, head_.q_stride, head_.group * head_.K);
    ahead_.add<T>(pass_.dk, first, n, head_.k_stride, head_.K);
    ahead_.add<T>(pass_.dv, first, n, head_.v_stride, head_.V);
    ahead_.add<T>(pass_.dg, first, n, head_.k_stride, head_.K);
  }

 private:
  struct NoGradients {
    NoGradients(const ScanShape<T>&, Arena&) {}
  };

  template <typename Visit>
  static void each_row(int64_t n, const Visit& visit) {
    for (int64_t i = 0; i < kChunk; ++i) visit(i, i < n);
  }
  static void load(bool real, const T* from, int64_t n, T* to) {
    if (real) return load_row(from, n, to);
    std::memset(to, 0, sizeof(T) * static_cast<size_t>(padded<T>(n)));
  }

  static T* to(void* base, int64_t token, int64_t stride) { return static_cast<T*>(base) + token * stride; }
  // The gradient of the last state takes the place of the state, on its way to that of the first.
  void* last_state() const {
    if constexpr (kBackward)
      return pass_.dstate;
    else
      return pass_.state;
  }

  void load_rows(int64_t first, int64_t n, bool queries) {
    const auto from = [&](const void* base, int64_t i, int64_t stride) {
      return static_cast<const T*>(base) + (first + i) * stride;
    };
    each_row(n, [&](int64_t i, bool real) {
      for (int64_t h = 0; queries && h < head_.group; ++h)
        load(real, from(head_.q, i, head_.q_stride) + h * head_.K, head_.K, rows_.q + (h * kChunk + i) * shape_.Kp);
      load(real, from(head_.k, i, head_.k_stride), head_.K, rows_.k + i * shape_.Kp);
      load(real, from(head_.v, i, head_.v_stride), head_.V, rows_.v + i * shape_.Vp);
      load(real, from(head_.g, i, head_.k_stride), head_.K, rows_.a + i * shape_.Kp);  // past the end g = 0, a = 1
      if (head_.delta_rule) rows_.b[i] = real ? *from(head_.b, i, head_.b_stride) : T(0);
    });
    // Not row by row: while rows are on their way from memory there must be room for many loads.
    for (int64_t at = 0; at < kChunk * shape_.Kp; at += kWidth<T>) store(rows_.a + at, exp(liger::load(rows_.a + at)));
  }

  ScanHead head_;
  ScanShape<T> shape_;
  Ahead& ahead_;
  T* state_;
  ScanRows<T> rows_;
  std::conditional_t<kBackward, ChunkScanBackward<T>, ChunkScan<T>> scan_;
  T* grad_o_;
  std::conditional_t<kBackward, ScanGradients<T>, NoGradients> grads_;
  Pass pass_ = {};
};

}  // namespace
}  // namespace liger
