// The token mixer of one sequence and one key/value head (MixHead): a chunk's q, k and v are read once, widened, and
// serve the recurrence and the window alike; what comes out is rounded once.
#pragma once

#include <optional>

#include "cpu/mix_rows.h"
#include "cpu/passes.h"

namespace liger {
namespace {

/// T computes, E is stored.
template <typename T, typename E, bool kBackward>
class MixRun {
 public:
  using Scalar = T;
  using Pass = std::conditional_t<kBackward, MixBackward, MixForward>;

  MixRun(const MixHead& head, Workspace& space)
      : head_(head),
        ahead_(space.ahead),
        raw_(head.group, head.D, space.shared),
        mixed_(wide_rows(space.shared)),
        source_(head, space.shared),
        window_share_(space.shared.take<T>(rows())) {
    if (head.structure) {
      const Scalars<T> scalars(head);
      const double gate = std::exp(static_cast<double>(scalars.of_key(kLogGate, 0)));
      linear_.emplace(
          StructureHead{head.structure, head.group, head.D, gate / head.divisor, gate * head.constant_log_decay},
          space.shared, space.ahead);
      state_scalars_ = linear_->states() * linear_->state_size();
      linear_out_ = wide_rows(space.shared);
    }
    states_ = space.own.take<T>(state_scalars_);
    if (head.window > 0)
      window_.emplace(WindowShape{head.group, head.D, head.window, head.sinks, head.tokens, head.seen}, space.own,
                      space.shared);
    lse_ = space.shared.take<T>(rows());
    if constexpr (kBackward) grads_.emplace(head, source_.own(), space);
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
    if (pass_.ring_raw_keys) store_raw_keys(static_cast<T*>(pass_.ring_raw_keys));
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
    if (pass_.d_scalars) store_row(grads_->scalars, kHeadScalars * head_.group, static_cast<T*>(pass_.d_scalars));
  }
  const T* states() const { return states_; }
  auto* checkpoints() const { return static_cast<std::conditional_t<kBackward, const T, T>*>(pass_.checkpoints); }

  void forward(int64_t first, int64_t n)
    requires(!kBackward)
  {
    load_inputs(first, n, /*queries=*/true);
    if (linear_) {
      T* states[2];
      linear_->forward(n, source_.rows(first, n, raw_, &pass_, true), split(states_, states), linear_out_);
    }
    T* lse = lse_;
    if (window_) {
      if (pass_.lse) lse = static_cast<T*>(pass_.lse) + first * head_.group;
      ahead_.some();
      window_->chunk(first, n, raw_.q, raw_.k, raw_.v, cos(first), sin(first), mixed_, lse);
    }
    if (linear_ && window_) mix(n, lse);
    const T* out = window_ ? mixed_ : linear_out_;
    E* o = static_cast<E*>(pass_.o);
    each_query(n, [&](int64_t h, int64_t i, int64_t row) {
      store_row(out + row * Dp(), head_.D, o + (first + i) * head_.q_stride + h * head_.D);
    });
  }

  void advance(int64_t first, int64_t n, const T* from, T* to) {
    if (!linear_) return;
    load_inputs(first, n, /*queries=*/false);
    const T* before[2];
    T* after[2];
    linear_->advance(n, source_.rows(first, n, raw_, nullptr, false), split(from, before), split(to, after));
  }

  void backward(int64_t first, int64_t n, const T* before)
    requires kBackward
  {
    MixGradients<T>& g = *grads_;
    g.raw.clear(head_.group, head_.D);
    load_keys(first);
    load_inputs(first, n, /*queries=*/true);
    load_heads(static_cast<const E*>(pass_.grad_o), first, n, mixed_);
    const T* lse = static_cast<const T*>(pass_.lse) + first * head_.group;
    LinearRows<T> rows = {};
    const T* states[2];
    T* dstates[2];
    const bool wants_outputs = linear_ && (head_.structure->normalizes() || pass_.d_scalars);
    if (linear_) {
      rows = source_.rows(first, n, raw_, nullptr, true);
      linear_->prepare(n, rows, split(before, states), wants_outputs ? linear_out_ : nullptr);
    }
    const bool shares = linear_ && window_ && head_.structure->normalizer == Normalizer::kShared;
    if (window_) {
      window_shares(n, lse);
      if (wants_outputs)
        each_query(n, [&](int64_t, int64_t, int64_t row) {
          g.along[row] = dot(linear_out_ + row * Dp(), mixed_ + row * Dp());
        });
      ahead_.some();
      window_->chunk(first, n, raw_.q, mixed_, lse, {window_share_, shares ? g.along : nullptr, g.mean}, cos(first),
                     sin(first), g.window.q, g.window.k, g.window.v);
      add_window_gradients(n);
    }
    if (linear_) {
      const LinearRows<T> d = g.linear_rows();
      if (window_) weigh_linear(n, shares);
      linear_->backward(n, rows, states, linear_out_, mixed_, shares ? g.mass : nullptr, split(states_, dstates), d,
                        pass_.d_scalars ? &g.scalar(kLogGate, 0) : nullptr);
      if (source_.own()) linear_gradients(first, n, rows, d);
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
  struct Nothing {};
  using Gradients = std::conditional_t<kBackward, std::optional<MixGradients<T>>, Nothing>;

  int64_t Dp() const { return padded<T>(head_.D); }
  int64_t rows() const { return head_.group * kChunk; }
  T* wide_rows(Arena& arena) { return arena.take<T>(rows() * Dp()); }
  const float* cos(int64_t first) const { return head_.cos + first * (head_.D / 2); }
  const float* sin(int64_t first) const { return head_.sin + first * (head_.D / 2); }
  T dot(const T* a, const T* b) const { return RowMaps<T>{head_.D}.dot(a, b); }

  // Calls visit(h, i, row of [group][kChunk]) for the queries of n tokens.
  template <typename Visit>
  void each_query(int64_t n, const Visit& visit) const {
    for (int64_t h = 0; h < head_.group; ++h)
      for (int64_t i = 0; i < n; ++i) visit(h, i, h * kChunk + i);
  }

  // The blocks of one or two states.
  template <typename P>
  P* split(P all, P (&parts)[2]) const {
    parts[0] = all;
    parts[1] = all + linear_->state_size();
    return parts;
  }
  void load_states(void* const* from) {
    for (int i = 0; linear_ && i < linear_->states(); ++i)
      load_matrix(static_cast<const T*>(from[i]), linear_->state_rows(), linear_->state_columns(),
                  states_ + i * linear_->state_size(), linear_->state_row());
  }
  void store_states(void* const* to) const {
    for (int i = 0; linear_ && i < linear_->states(); ++i)
      store_matrix(states_ + i * linear_->state_size(), linear_->state_row(), linear_->state_rows(),
                   linear_->state_columns(), static_cast<T*>(to[i]));
  }
  // As the window stores its rotated keys.
  void store_raw_keys(T* ring) const {
    const auto store_slot = [&](int64_t token, int64_t slot) {
      load_row(static_cast<const E*>(head_.k) + token * head_.kv_stride, head_.D, raw_.k);
      store_row(raw_.k, head_.D, ring + slot * head_.D);
    };
    for (int64_t token = larger(0, head_.tokens - head_.window); token < head_.tokens; ++token)
      store_slot(token, (head_.seen + token) % head_.window);
    for (int64_t j = head_.seen; j < smaller(head_.sinks, head_.seen + head_.tokens); ++j)
      store_slot(j - head_.seen, head_.window + j);
  }

  void load_heads(const E* from, int64_t first, int64_t n, T* to) {
    for (int64_t h = 0; h < head_.group; ++h)
      load_rows(from + first * head_.q_stride + h * head_.D, head_.q_stride, n, head_.D, to + h * kChunk * Dp());
  }
  void load_inputs(int64_t first, int64_t n, bool queries) {
    if (queries) load_heads(static_cast<const E*>(head_.q), first, n, raw_.q);
    load_rows(static_cast<const E*>(head_.k) + first * head_.kv_stride, head_.kv_stride, n, head_.D, raw_.k);
    load_rows(static_cast<const E*>(head_.v) + first * head_.kv_stride, head_.kv_stride, n, head_.D, raw_.v);
  }

  // What the window's output of each query counts,
  void window_shares(int64_t n, const T* lse) {
    const Scalars<T> scalars(head_);
    const bool shares = linear_ && head_.structure->normalizer == Normalizer::kShared;
    each_query(n, [&](int64_t h, int64_t, int64_t row) {
      if (!linear_) {
        window_share_[row] = 1;
      } else if (!shares) {
        window_share_[row] = scalars.of_query(kWindowWeight, h, static_cast<T>(head_.window_share));
      } else {
        const T mass = linear_->mass()[row], weight = scalars.of_query(kLinearWeight, h, 0);
        window_share_[row] = mass > 0 ? 1 / (1 + std::exp(weight + std::log(mass) - lse[row])) : 1;
      }
    });
  }
  // and what the recurrence's does.
  T linear_share(int64_t h, int64_t row) const {
    if (head_.structure->normalizer == Normalizer::kShared) return 1 - window_share_[row];
    return Scalars<T>(head_).of_query(kLinearWeight, h, static_cast<T>(1 - head_.window_share));
  }
  void mix(int64_t n, const T* lse) {
    window_shares(n, lse);
    each_query(n, [&](int64_t h, int64_t, int64_t row) {
      const T share = window_share_[row], rest = linear_share(h, row);
      T *to = mixed_ + row * Dp(), *linear = linear_out_ + row * Dp();
      for (int64_t d = 0; d < Dp(); d += kWidth<T>) store(to + d, load(to + d) * share + load(linear + d) * rest);
    });
  }

  // Backward: grad_o becomes that of the recurrence's output, and what the shares depend on gets its part.
  void weigh_linear(int64_t n, bool shares) {
    MixGradients<T>& g = *grads_;
    std::memset(g.mass, 0, sizeof(T) * static_cast<size_t>(rows()));
    each_query(n, [&](int64_t h, int64_t, int64_t row) {
      const T rest = linear_share(h, row);
      T* d = mixed_ + row * Dp();
      for (int64_t c = 0; c < Dp(); c += kWidth<T>) store(d + c, load(d + c) * rest);
      if (shares) {
        const T mass = linear_->mass()[row], d_log_mass = -window_share_[row] * rest * (g.mean[row] - g.along[row]);
        g.mass[row] = mass > 0 ? d_log_mass / mass : 0;
        g.scalar(kLinearWeight, h) += mass > 0 ? d_log_mass : 0;
      } else if (pass_.d_scalars) {
        g.scalar(kWindowWeight, h) += g.mean[row];
        g.scalar(kLinearWeight, h) += g.along[row];
      }
    });
  }

  // The gradients `d` of the rows that the recurrence read, to those of the tokens they were made of.
  void linear_gradients(int64_t first, int64_t n, const LinearRows<T>& rows, const LinearRows<T>& d) {
    MixGradients<T>& g = *grads_;
    const Scalars<T> scalars(head_);
    for (int64_t h = 0; h < head_.group; ++h) {
      const int64_t at = h * kChunk * Dp();
      g.scalar(kQueryScale, h) +=
          source_.give(n, raw_.q + at, d.q + at, first, scalars.of_query(kQueryScale, h, 1), g.raw.q + at);
    }
    const T scale = scalars.of_key(kKeyScale, 1);
    if (!head_.beyond_window) {
      g.scalar(kKeyScale, 0) += source_.give(n, raw_.k, d.k, first, scale, g.raw.k);
      return;
    }
    const int64_t begin = rows.begin, at = begin * Dp();
    if (begin < n)
      g.scalar(kKeyScale, 0) +=
          source_.give(n - begin, rows.gate + at, d.k + at, source_.token(first, begin), scale, d.gate + at);
    for (int64_t i = begin; i < n; ++i) {
      const int64_t row = source_.token(first, i) % g.late * Dp();
      add(Dp(), d.gate + i * Dp(), g.late_k + row);
      add(Dp(), d.v + i * Dp(), g.late_v + row);
    }
  }
  static void add(int64_t n, const T* from, T* to) {
    for (int64_t at = 0; at < n; at += kWidth<T>) store(to + at, load(to + at) + load(from + at));
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
    MixGradients<T>& g = *grads_;
    for (int64_t h = 0; h < head_.group; ++h)
      add(n * Dp(), g.window.q + h * kChunk * Dp(), g.raw.q + h * kChunk * Dp());
    add(n * Dp(), g.window.k, g.raw.k);
    add(n * Dp(), g.window.v, g.raw.v);
  }

  void store_gradients(int64_t first, int64_t n) {
    MixGradients<T>& g = *grads_;
    for (int64_t i = 0; head_.beyond_window && i < n; ++i) {
      T *k = g.late_k + (first + i) % g.late * Dp(), *v = g.late_v + (first + i) % g.late * Dp();
      add(Dp(), k, g.raw.k + i * Dp());
      add(Dp(), v, g.raw.v + i * Dp());
      for (int64_t d = 0; d < Dp(); ++d) k[d] = v[d] = 0;
    }
    E *dq = static_cast<E*>(pass_.dq), *dk = static_cast<E*>(pass_.dk), *dv = static_cast<E*>(pass_.dv);
    each_query(n, [&](int64_t h, int64_t i, int64_t row) {
      store_row(g.raw.q + row * Dp(), head_.D, dq + (first + i) * head_.q_stride + h * head_.D);
    });
    for (int64_t i = 0; i < n; ++i) {
      store_row(g.raw.k + i * Dp(), head_.D, dk + (first + i) * head_.kv_stride);
      store_row(g.raw.v + i * Dp(), head_.D, dv + (first + i) * head_.kv_stride);
    }
  }

  MixHead head_;
  Ahead& ahead_;
  RawRows<T> raw_;
  T* mixed_;  // forward: the window's output, then the mix; backward: grad_o, then the recurrence's
  LinearSource<T, E> source_;
  T* window_share_;  // [group][kChunk]
  std::optional<StructureRun<T, kBackward>> linear_;
  std::optional<Window> window_;
  T* linear_out_ = nullptr;
  T* lse_ = nullptr;  // [group][kChunk], where the forward pass keeps none
  int64_t state_scalars_ = 0;
  T* states_ = nullptr;
  Gradients grads_ = {};
  Pass pass_ = {};
  int64_t next_keys_ = 0;
};

}  // namespace
}  // namespace liger
