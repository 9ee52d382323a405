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
  ScanRun(const ScanHead& head, Arena& arena)
      : head_(head),
        shape_{head.group, head.K, head.V, head.delta_rule},
        rows_(shape_, arena),
        scan_(shape_, arena),
        state_(arena.take<T>(state_scalars())),
        dstate_(arena.take<T>(kBackward ? state_scalars() : 0)),
        grad_o_(arena.take<T>(kBackward ? head.group * kChunk * shape_.Vp : 0)),
        grads_(shape_, arena),
        starts_(arena.take<T>(kBackward ? kSegmentChunks * state_scalars() : 0)) {}

  int64_t state_scalars() const { return shape_.K * shape_.Sp; }
  T* states() { return state_; }

  void run(const ScanForward& out) {
    out_ = static_cast<T*>(out.o);
    T* state = static_cast<T*>(out.state);
    load_matrix(state, shape_.K, shape_.V, state_, shape_.Sp);
    forward_pass(*this, head_.tokens, static_cast<T*>(out.checkpoints));
    store_matrix(state_, shape_.Sp, shape_.K, shape_.V, state);
  }
  void run(const ScanBackward& out) {
    backward_ = out;
    T* dstate = static_cast<T*>(out.dstate);
    load_matrix(dstate, shape_.K, shape_.V, dstate_, shape_.Sp);
    backward_pass(*this, head_.tokens, static_cast<const T*>(out.checkpoints), starts_);
    store_matrix(dstate_, shape_.Sp, shape_.K, shape_.V, dstate);
  }

  void forward(int64_t first, int64_t n) {
    load_rows(first, n);
    prefetch(first + kChunk);
    const T* o = scan_.outputs(rows_, state_);
    scan_.advance(state_);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t h = 0; h < head_.group; ++h)
        store_row(o + (h * kChunk + i) * shape_.Vp, head_.V, out_ + (first + i) * head_.o_stride + h * head_.V);
  }
  void advance(int64_t first, int64_t n) {
    load_rows(first, n);
    prefetch(first + kChunk);
    scan_.advance(rows_, state_);
  }
  void backward(int64_t first, int64_t n, const T* before) {
    load_rows(first, n);
    const T* grad_o = static_cast<const T*>(backward_.grad_o);
    each_row(n, [&](int64_t i, bool real) {
      for (int64_t h = 0; h < head_.group; ++h)
        load(real, grad_o + (first + i) * head_.o_stride + h * head_.V, head_.V,
             grad_o_ + (h * kChunk + i) * shape_.Vp);
    });
    scan_.backward(rows_, before, grad_o_, dstate_, grads_);
    const auto to = [&](void* base, int64_t i, int64_t stride) { return static_cast<T*>(base) + (first + i) * stride; };
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t h = 0; h < head_.group; ++h)
        store_row(grads_.q + (h * kChunk + i) * shape_.Kp, head_.K, to(backward_.dq, i, head_.q_stride) + h * head_.K);
      store_row(grads_.k + i * shape_.Kp, head_.K, to(backward_.dk, i, head_.k_stride));
      store_row(grads_.v + i * shape_.Vp, head_.V, to(backward_.dv, i, head_.v_stride));
      store_row(grads_.g + i * shape_.Kp, head_.K, to(backward_.dg, i, head_.k_stride));
      if (head_.delta_rule) *to(backward_.db, i, head_.b_stride) = grads_.b[i];
    }
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

  void prefetch(int64_t first) {
    if (first < 0 || first >= head_.tokens) return;
    const int64_t n = chunk_tokens(head_.tokens, first);
    const auto rows = [&](const void* base, int64_t stride, int64_t size) {
      prefetch_rows(static_cast<const T*>(base) + first * stride, n, stride, size);
    };
    rows(head_.q, head_.q_stride, head_.group * head_.K);
    rows(head_.k, head_.k_stride, head_.K);
    rows(head_.v, head_.v_stride, head_.V);
    rows(head_.g, head_.k_stride, head_.K);
    if (out_) rows(out_, head_.o_stride, head_.group * head_.V);
    if (backward_.grad_o) rows(backward_.grad_o, head_.o_stride, head_.group * head_.V);
  }

  void load_rows(int64_t first, int64_t n) {
    const auto from = [&](const void* base, int64_t i, int64_t stride) {
      return static_cast<const T*>(base) + (first + i) * stride;
    };
    each_row(n, [&](int64_t i, bool real) {
      for (int64_t h = 0; h < head_.group; ++h)
        load(real, from(head_.q, i, head_.q_stride) + h * head_.K, head_.K, rows_.q + (h * kChunk + i) * shape_.Kp);
      load(real, from(head_.k, i, head_.k_stride), head_.K, rows_.k + i * shape_.Kp);
      load(real, from(head_.v, i, head_.v_stride), head_.V, rows_.v + i * shape_.Vp);
      T* a = rows_.a + i * shape_.Kp;
      load(real, from(head_.g, i, head_.k_stride), head_.K, a);  // past the end g = 0, a = 1
      for (int64_t d = 0; d < shape_.Kp; d += kWidth<T>) store(a + d, exp(liger::load(a + d)));
      if (head_.delta_rule) rows_.b[i] = real ? *from(head_.b, i, head_.b_stride) : T(0);
    });
  }

  ScanHead head_;
  ScanShape<T> shape_;
  ScanRows<T> rows_;
  std::conditional_t<kBackward, ChunkScanBackward<T>, ChunkScan<T>> scan_;
  T *state_, *dstate_, *grad_o_;
  std::conditional_t<kBackward, ScanGradients<T>, NoGradients> grads_;
  T* starts_;
  T* out_ = nullptr;
  ScanBackward backward_ = {};
};

}  // namespace
}  // namespace liger
