// The token mixer of one sequence and one key/value head (MixHead): a chunk's q, k and v are read once, widened, and
// serve the recurrence and the window alike; what comes out is rounded once.
#pragma once

#include <optional>

#include "cpu/kernels.h"
#include "cpu/passes.h"
#include "cpu/structure_run.h"
#include "cpu/window.h"

namespace liger {
namespace {

/// T computes, E is stored.
template <typename T, typename E, bool kBackward>
class MixRun {
 public:
  MixRun(const MixHead& head, Arena& arena) : head_(head), raw_(rows(arena)), mixed_(wide_rows(arena)) {
    if (head.structure) {
      linear_.emplace(StructureHead{head.structure, head.group, head.D, head.divisor, head.constant_log_decay}, arena);
      state_scalars_ = linear_->states() * linear_->state_size();
      linear_out_ = wide_rows(arena);
    }
    states_ = arena.take<T>(state_scalars_);
    if constexpr (kBackward) {
      dstates_ = arena.take<T>(state_scalars_);
      starts_ = arena.take<T>(kSegmentChunks * state_scalars_);
      grad_ = rows(arena);
      window_grad_ = rows(arena);
    }
    if (head.window > 0)
      window_.emplace(WindowShape{head.group, head.D, head.window, head.sinks, head.tokens, head.seen}, arena);
  }

  int64_t state_scalars() const { return state_scalars_; }
  T* states() { return states_; }

  void run(const MixForward& out)
    requires(!kBackward)
  {
    forward_ = out;
    T *keys = static_cast<T*>(out.ring_keys), *values = static_cast<T*>(out.ring_values);
    load_states(out.states, states_);
    if (window_ && keys && head_.seen > 0) window_->load_state(keys, values);
    forward_pass(*this, head_.tokens, static_cast<T*>(out.checkpoints));
    if (window_ && keys) window_->store_state(keys, values);
    store_states(states_, out.states);
  }
  void run(const MixBackward& out)
    requires kBackward
  {
    backward_ = out;
    next_keys_ = (head_.tokens - 1) / kChunk * kChunk;
    for (int64_t first = 0; window_ && first < head_.sinks && first < head_.tokens; first += kChunk) add_keys(first);
    load_states(out.dstates, dstates_);
    backward_pass(*this, head_.tokens, static_cast<const T*>(out.checkpoints), starts_);
    store_states(dstates_, out.dstates);
  }

  void forward(int64_t first, int64_t n) {
    load_inputs(first, n, /*queries=*/true);
    prefetch(first + kChunk);
    const T share = static_cast<T>(head_.window_share);
    if (linear_) {
      T* states[2];
      linear_->forward(n, raw_, split(states_, states), linear_out_);
    }
    if (window_) {
      T* lse = static_cast<T*>(forward_.lse);
      window_->chunk(first, n, raw_.q, raw_.k, raw_.v, cos(first), sin(first), mixed_,
                     lse ? lse + first * head_.group : nullptr);
    }
    const int64_t Dp = padded<T>(head_.D);
    E* o = static_cast<E*>(forward_.o);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t h = 0; h < head_.group; ++h) {
        const int64_t at = (h * kChunk + i) * Dp;
        if (linear_ && window_) {
          for (int64_t d = 0; d < Dp; d += kWidth<T>)
            store(mixed_ + at + d, load(mixed_ + at + d) * share + load(linear_out_ + at + d) * (1 - share));
        }
        store_row((window_ ? mixed_ : linear_out_) + at, head_.D, o + (first + i) * head_.q_stride + h * head_.D);
      }
  }

  void advance(int64_t first, int64_t n) {
    if (!linear_) return;
    load_inputs(first, n, /*queries=*/false);
    prefetch(first + kChunk);
    T* states[2];
    linear_->advance(n, raw_, split(states_, states));
  }

  void backward(int64_t first, int64_t n, T* before)
    requires kBackward
  {
    clear(grad_);
    load_keys(first);
    load_inputs(first, n, /*queries=*/true);
    const T share = static_cast<T>(head_.window_share);
    if (linear_) {
      load_grad_o(first, n, window_ ? 1 - share : T(1));
      T *states[2], *dstates[2];
      linear_->backward(n, raw_, split(before, states), mixed_, split(dstates_, dstates), grad_);
    }
    if (window_) {
      load_grad_o(first, n, linear_ ? share : T(1));
      const T* lse = static_cast<const T*>(backward_.lse) + first * head_.group;
      window_->chunk(first, n, raw_.q, mixed_, lse, cos(first), sin(first), window_grad_.q, window_grad_.k,
                     window_grad_.v);
      add_window_gradients(n);
    }
    store_gradients(first, n);
  }

 private:
  using Window = std::conditional_t<kBackward, WindowBackward<T>, WindowForward<T>>;

  T* wide_rows(Arena& arena) { return arena.take<T>(head_.group * kChunk * padded<T>(head_.D)); }
  RawRows<T> rows(Arena& arena) {
    const int64_t size = kChunk * padded<T>(head_.D);
    T* q = wide_rows(arena);
    T* k = arena.take<T>(size);
    return {q, k, arena.take<T>(size)};
  }
  void clear(const RawRows<T>& rows) {
    const size_t bytes = sizeof(T) * static_cast<size_t>(kChunk * padded<T>(head_.D));
    std::memset(rows.q, 0, bytes * static_cast<size_t>(head_.group));
    std::memset(rows.k, 0, bytes);
    std::memset(rows.v, 0, bytes);
  }
  const float* cos(int64_t first) const { return head_.cos + first * (head_.D / 2); }
  const float* sin(int64_t first) const { return head_.sin + first * (head_.D / 2); }

  // The blocks of one or two states.
  T** split(T* all, T* (&parts)[2]) const {
    parts[0] = all;
    parts[1] = all + linear_->state_size();
    return parts;
  }
  void load_states(void* const* from, T* to) {
    for (int i = 0; linear_ && i < linear_->states(); ++i) {
      load_matrix(static_cast<const T*>(from[i]), head_.D, linear_->state_columns(), to, linear_->state_row());
      to += linear_->state_size();
    }
  }
  void store_states(const T* from, void* const* to) {
    for (int i = 0; linear_ && i < linear_->states(); ++i) {
      store_matrix(from, linear_->state_row(), head_.D, linear_->state_columns(), static_cast<T*>(to[i]));
      from += linear_->state_size();
    }
  }

  template <typename From, typename To>
  void load_rows(const From* from, int64_t stride, int64_t n, To* to) {
    const int64_t Dp = padded<T>(head_.D);
    for (int64_t i = 0; i < n; ++i) load_row(from + i * stride, head_.D, to + i * Dp);
    std::memset(to + n * Dp, 0, sizeof(T) * static_cast<size_t>((kChunk - n) * Dp));
  }
  void load_heads(const E* from, int64_t first, int64_t n, T* to) {
    for (int64_t h = 0; h < head_.group; ++h)
      load_rows(from + first * head_.q_stride + h * head_.D, head_.q_stride, n, to + h * kChunk * padded<T>(head_.D));
  }
  void load_inputs(int64_t first, int64_t n, bool queries) {
    if (queries) load_heads(static_cast<const E*>(head_.q), first, n, raw_.q);
    load_rows(static_cast<const E*>(head_.k) + first * head_.kv_stride, head_.kv_stride, n, raw_.k);
    load_rows(static_cast<const E*>(head_.v) + first * head_.kv_stride, head_.kv_stride, n, raw_.v);
  }
  void prefetch(int64_t first) {
    if (first >= head_.tokens) return;
    const int64_t n = chunk_tokens(head_.tokens, first);
    const auto rows = [&](const void* base, int64_t stride, int64_t size) {
      if (base) prefetch_rows(static_cast<const E*>(base) + first * stride, n, stride, size);
    };
    rows(head_.q, head_.q_stride, head_.group * head_.D);
    rows(head_.k, head_.kv_stride, head_.D);
    rows(head_.v, head_.kv_stride, head_.D);
    rows(forward_.o, head_.q_stride, head_.group * head_.D);
    rows(backward_.grad_o, head_.q_stride, head_.group * head_.D);
  }
  void load_grad_o(int64_t first, int64_t n, T scale) {
    load_heads(static_cast<const E*>(backward_.grad_o), first, n, mixed_);
    for (int64_t at = 0; at < head_.group * kChunk * padded<T>(head_.D); at += kWidth<T>)
      store(mixed_ + at, load(mixed_ + at) * scale);
  }

  // The window's backward pass wants the keys that the chunk at `first` sees, the latest of the sequence first.
  void load_keys(int64_t first)
    requires kBackward
  {
    if (!window_) return;
    for (; next_keys_ >= 0 && next_keys_ >= first - window_->reach(); next_keys_ -= kChunk) add_keys(next_keys_);
  }
  void add_keys(int64_t first)
    requires kBackward
  {
    const int64_t n = chunk_tokens(head_.tokens, first);
    load_inputs(first, n, /*queries=*/false);
    window_->add_keys(first, n, raw_.k, raw_.v, cos(first), sin(first));
  }

  void add_window_gradients(int64_t n) {
    const int64_t Dp = padded<T>(head_.D);
    const auto add = [&](const T* from, T* to) {
      for (int64_t at = 0; at < n * Dp; at += kWidth<T>) store(to + at, load(to + at) + load(from + at));
    };
    for (int64_t h = 0; h < head_.group; ++h) add(window_grad_.q + h * kChunk * Dp, grad_.q + h * kChunk * Dp);
    add(window_grad_.k, grad_.k);
    add(window_grad_.v, grad_.v);
  }

  void store_gradients(int64_t first, int64_t n) {
    const int64_t Dp = padded<T>(head_.D);
    E *dq = static_cast<E*>(backward_.dq), *dk = static_cast<E*>(backward_.dk), *dv = static_cast<E*>(backward_.dv);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t h = 0; h < head_.group; ++h)
        store_row(grad_.q + (h * kChunk + i) * Dp, head_.D, dq + (first + i) * head_.q_stride + h * head_.D);
      store_row(grad_.k + i * Dp, head_.D, dk + (first + i) * head_.kv_stride);
      store_row(grad_.v + i * Dp, head_.D, dv + (first + i) * head_.kv_stride);
    }
  }

  MixHead head_;
  RawRows<T> raw_;
  T* mixed_;  // forward: the window's output, then the sum; backward: a branch's share of grad_o
  std::optional<StructureRun<T, kBackward>> linear_;
  std::optional<Window> window_;
  T* linear_out_ = nullptr;
  int64_t state_scalars_ = 0;
  T *states_ = nullptr, *dstates_ = nullptr, *starts_ = nullptr;
  RawRows<T> grad_ = {}, window_grad_ = {};
  MixForward forward_ = {};
  MixBackward backward_ = {};
  int64_t next_keys_ = 0;
};

}  // namespace
}  // namespace liger
