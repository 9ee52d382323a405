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
  using Scalar = T;
  using Pass = std::conditional_t<kBackward, MixBackward, MixForward>;

  MixRun(const MixHead& head, Workspace& space)
      : head_(head), ahead_(space.ahead), raw_(rows(space.shared)), mixed_(wide_rows(space.shared)) {
    if (head.structure) {
      linear_.emplace(StructureHead{head.structure, head.group, head.D, head.divisor, head.constant_log_decay},
                      space.shared, space.ahead);
      state_scalars_ = linear_->states() * linear_->state_size();
      linear_out_ = wide_rows(space.shared);
    }
    states_ = space.own.take<T>(state_scalars_);
    if constexpr (kBackward) {
      grad_ = rows(space.shared);
      window_grad_ = rows(space.shared);
    }
    if (head.window > 0)
      window_.emplace(WindowShape{head.group, head.D, head.window, head.sinks, head.tokens, head.seen}, space.own,
                      space.shared);
  }

  int64_t state_scalars() const { return state_scalars_; }

  void begin(const MixForward& pass)
    requires(!kBackward)
  {
    pass_ = pass;
    load_states(pass.states);
    if (window_ && pass.ring_keys && head_.seen > 0)
      window_->load_state(static_cast<const T*>(pass.ring_keys), static_cast<const T*>(pass.ring_values));
  }
  void end()
    requires(!kBackward)
  {
    if (window_ && pass_.ring_keys)
      window_->store_state(static_cast<T*>(pass_.ring_keys), static_cast<T*>(pass_.ring_values));
    store_states(pass_.states);
  }

  // Backward the states are the gradients of the last ones, on their way to those of the first.
  void begin(const MixBackward& pass)
    requires kBackward
  {
    pass_ = pass;
    next_keys_ = (head_.tokens - 1) / kChunk * kChunk;
    for (int64_t first = 0; window_ && first < head_.sinks && first < head_.tokens; first += kChunk) add_keys(first);
    load_states(pass.dstates);
  }
  void end()
    requires kBackward
  {
    store_states(pass_.dstates);
  }
  const T* states() const { return states_; }
  auto* checkpoints() const { return static_cast<std::conditional_t<kBackward, const T, T>*>(pass_.checkpoints); }

  void forward(int64_t first, int64_t n)
    requires(!kBackward)
  {
    load_inputs(first, n, /*queries=*/true);
    const T share = static_cast<T>(head_.window_share);
    if (linear_) {
      T* states[2];
      linear_->forward(n, raw_, split(states_, states), linear_out_);
    }
    if (window_) {
      T* lse = static_cast<T*>(pass_.lse);
      ahead_.some();
      window_->chunk(first, n, raw_.q, raw_.k, raw_.v, cos(first), sin(first), mixed_,
                     lse ? lse + first * head_.group : nullptr);
    }
    const int64_t Dp = padded<T>(head_.D);
    E* o = static_cast<E*>(pass_.o);
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

  void advance(int64_t first, int64_t n, const T* from, T* to) {
    if (!linear_) return;
    load_inputs(first, n, /*queries=*/false);
    const T* before[2];
    T* after[2];
    linear_->advance(n, raw_, split(from, before), split(to, after));
  }

  void backward(int64_t first, int64_t n, const T* before)
    requires kBackward
  {
    clear(grad_);
    load_keys(first);
    load_inputs(first, n, /*queries=*/true);
    const T share = static_cast<T>(head_.window_share);
    if (linear_) {
      load_grad_o(first, n, window_ ? 1 - share : T(1));
      const T* states[2];
      T* dstates[2];
      linear_->backward(n, raw_, split(before, states), mixed_, split(states_, dstates), grad_);
    }
    if (window_) {
      load_grad_o(first, n, linear_ ? share : T(1));
      const T* lse = static_cast<const T*>(pass_.lse) + first * head_.group;
      ahead_.some();
      window_->chunk(first, n, raw_.q, mixed_, lse, cos(first), sin(first), window_grad_.q, window_grad_.k,
                     window_grad_.v);
      add_window_gradients(n);
    }
    store_gradients(first, n);
  }

  void expect(int64_t first, int64_t n) {
    ahead_.add<E>(head_.q, first, n, head_.q_stride, head_.group * head_.D);
    expect_advance(first, n);
    if constexpr (!kBackward) ahead_.add<E>(pass_.o, first, n, head_.q_stride, head_.group * head_.D);
  }
  void expect_advance(int64_t first, int64_t n) {
    ahead_.add<E>(head_.k, first, n, head_.kv_stride, head_.D);
    ahead_.add<E>(head_.v, first, n, head_.kv_stride, head_.D);
  }
  void expect_backward(int64_t first, int64_t n)
    requires kBackward
  {
    expect(first, n);
    ahead_.add<E>(pass_.grad_o, first, n, head_.q_stride, head_.group * head_.D);
    ahead_.add<E>(pass_.dq, first, n, head_.q_stride, head_.group * head_.D);
    ahead_.add<E>(pass_.dk, first, n, head_.kv_stride, head_.D);
    ahead_.add<E>(pass_.dv, first, n, head_.kv_stride, head_.D);
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
  template <typename P>
  P* split(P all, P (&parts)[2]) const {
    parts[0] = all;
    parts[1] = all + linear_->state_size();
    return parts;
  }
  void load_states(void* const* from) {
    for (int i = 0; linear_ && i < linear_->states(); ++i)
      load_matrix(static_cast<const T*>(from[i]), head_.D, linear_->state_columns(),
                  states_ + i * linear_->state_size(), linear_->state_row());
  }
  void store_states(void* const* to) const {
    for (int i = 0; linear_ && i < linear_->states(); ++i)
      store_matrix(states_ + i * linear_->state_size(), linear_->state_row(), head_.D, linear_->state_columns(),
                   static_cast<T*>(to[i]));
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
  void load_grad_o(int64_t first, int64_t n, T scale) {
    load_heads(static_cast<const E*>(pass_.grad_o), first, n, mixed_);
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
    E *dq = static_cast<E*>(pass_.dq), *dk = static_cast<E*>(pass_.dk), *dv = static_cast<E*>(pass_.dv);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t h = 0; h < head_.group; ++h)
        store_row(grad_.q + (h * kChunk + i) * Dp, head_.D, dq + (first + i) * head_.q_stride + h * head_.D);
      store_row(grad_.k + i * Dp, head_.D, dk + (first + i) * head_.kv_stride);
      store_row(grad_.v + i * Dp, head_.D, dv + (first + i) * head_.kv_stride);
    }
  }

  MixHead head_;
  Ahead& ahead_;
  RawRows<T> raw_;
  T* mixed_;  // forward: the window's output, then the sum; backward: a branch's share of grad_o
  std::optional<StructureRun<T, kBackward>> linear_;
  std::optional<Window> window_;
  T* linear_out_ = nullptr;
  int64_t state_scalars_ = 0;
  T* states_ = nullptr;
  RawRows<T> grad_ = {}, window_grad_ = {};
  Pass pass_ = {};
  int64_t next_keys_ = 0;
};

}  // namespace
}  // namespace liger
