// The rows that the branches of a token mixer (MixHead) read and the gradients of them, a chunk at a time.
#pragma once

#include "cpu/kernels.h"
#include "cpu/structure_run.h"
#include "cpu/window.h"

namespace liger {
namespace {

/// A chunk's rows as projected, [group][kChunk][Dp] and [kChunk][Dp] twice; those past its n tokens are zeros.
template <typename T>
struct RawRows {
  T *q, *k, *v;

  RawRows(int64_t group, int64_t D, Arena& arena)
      : q(arena.take<T>(group * kChunk * padded<T>(D))),
        k(arena.take<T>(kChunk * padded<T>(D))),
        v(arena.take<T>(kChunk * padded<T>(D))) {}
  void clear(int64_t group, int64_t D) const {
    const size_t bytes = sizeof(T) * static_cast<size_t>(kChunk * padded<T>(D));
    std::memset(q, 0, bytes * static_cast<size_t>(group));
    std::memset(k, 0, bytes);
    std::memset(v, 0, bytes);
  }
};

/// A head's numbers (HeadScalar), or their defaults.
template <typename T>
class Scalars {
 public:
  explicit Scalars(const MixHead& head) : head_(head) {}
  T of_query(HeadScalar which, int64_t h, T otherwise) const {
    return head_.scalars ? static_cast<const T*>(head_.scalars)[which * head_.scalars_row + h] : otherwise;
  }
  T of_key(HeadScalar which, T otherwise) const {
    return head_.scalars ? static_cast<const T*>(head_.kv_scalars)[which * head_.scalars_row] : otherwise;
  }

 private:
  const MixHead& head_;
};

template <typename T, typename E>
inline void load_rows(const E* from, int64_t stride, int64_t n, int64_t D, T* to) {
  const int64_t Dp = padded<T>(D);
  for (int64_t i = 0; i < n; ++i) load_row(from + i * stride, D, to + i * Dp);
  std::memset(to + n * Dp, 0, sizeof(T) * static_cast<size_t>((kChunk - n) * Dp));
}

/// What the recurrence reads: the chunk's own rows where the layer is the paper's; otherwise rows of its own, rotated,
/// scaled, and with beyond_window the keys and values of the tokens that leave the window.
/// T computes, E is stored.
template <typename T, typename E>
class LinearSource {
 public:
  LinearSource(const MixHead& head, Arena& arena)
      : head_(head),
        Dp_(padded<T>(head.D)),
        own_(head.rotates_features || head.beyond_window || head.scalars),
        q_(arena.take<T>(own_ ? head.group * kChunk * Dp_ : 0)),
        k_(arena.take<T>(own_ ? kChunk * Dp_ : 0)),
        gate_(arena.take<T>(head.beyond_window ? kChunk * Dp_ : 0)),
        v_(arena.take<T>(head.beyond_window ? kChunk * Dp_ : 0)),
        rotated_(arena.take<T>(own_ ? kChunk * Dp_ : 0)) {}

  /// Whether gradients of its rows need rows of their own.
  bool own() const { return own_; }

  LinearRows<T> rows(int64_t first, int64_t n, const RawRows<T>& raw, const MixForward* rings, bool queries) {
    if (!own_) return {raw.q, raw.k, raw.k, raw.v};
    const Scalars<T> scalars(head_);
    const float *cos = head_.cos + first * (head_.D / 2), *sin = head_.sin + first * (head_.D / 2);
    for (int64_t h = 0; queries && h < head_.group; ++h)
      take(n, raw.q + h * kChunk * Dp_, cos, sin, scalars.of_query(kQueryScale, h, 1), q_ + h * kChunk * Dp_);
    LinearRows<T> out = {q_, k_, raw.k, raw.v};
    const T scale = scalars.of_key(kKeyScale, 1);
    if (head_.beyond_window) {
      out.gate = gate_;
      out.v = v_;
      out.begin = late_rows(first, n, rings, scale);
    } else {
      take(n, raw.k, cos, sin, scale, k_);
    }
    return out;
  }

  /// Token of this pass in row i of keys and values.
  int64_t token(int64_t first, int64_t i) const { return first + i - (head_.beyond_window ? head_.window : 0); }

  /// From gradients of n rows of scaled features' sources, `d`, to those of the rows as projected, added to `to`.
  /// Returns that of the scale.
  T give(int64_t n, const T* raw, T* d, int64_t first, T scale, T* to) {
    T along = 0;
    if (head_.rotates_features) {
      rotate<T>(n, d, head_.cos + first * (head_.D / 2), head_.sin + first * (head_.D / 2), head_.D, 1, -1, rotated_);
      d = rotated_;
    }
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < head_.D; ++c) {
        along += d[i * Dp_ + c] * raw[i * Dp_ + c];
        to[i * Dp_ + c] += scale * d[i * Dp_ + c];
      }
    return along;
  }

 private:
  void take(int64_t n, const T* x, const float* cos, const float* sin, T scale, T* to) const {
    if (head_.rotates_features) return rotate<T>(n, x, cos, sin, head_.D, scale, 1, to);
    for (int64_t at = 0; at < n * Dp_; at += kWidth<T>) store(to + at, load(x + at) * scale);
  }

  // Tokens before this pass come from the rings. Returns the first row that exists: neither a sink nor before the text.
  int64_t late_rows(int64_t first, int64_t n, const MixForward* rings, T scale) {
    const int64_t begin = smaller(n, larger(0, head_.sinks - (head_.seen + token(first, 0))));
    const int64_t half = head_.D / 2;
    for (int64_t i = begin; i < n; ++i) {
      const int64_t from = token(first, i);
      T *key = k_ + i * Dp_, *gate = gate_ + i * Dp_, *value = v_ + i * Dp_;
      if (from >= 0) {
        load_row(static_cast<const E*>(head_.k) + from * head_.kv_stride, head_.D, gate);
        load_row(static_cast<const E*>(head_.v) + from * head_.kv_stride, head_.D, value);
        take(1, gate, head_.cos + from * half, head_.sin + from * half, scale, key);
        continue;
      }
      const int64_t slot = (head_.seen + from) % head_.window * head_.D;
      load_row(static_cast<const T*>(rings->ring_raw_keys) + slot, head_.D, gate);
      load_row(static_cast<const T*>(rings->ring_values) + slot, head_.D, value);
      load_row(static_cast<const T*>(head_.rotates_features ? rings->ring_keys : rings->ring_raw_keys) + slot, head_.D,
               key);
      for (int64_t d = 0; d < Dp_; d += kWidth<T>) store(key + d, load(key + d) * scale);
    }
    return begin;
  }

  MixHead head_;
  int64_t Dp_;
  bool own_;
  T *q_, *k_, *gate_, *v_;
  T* rotated_;  // [kChunk][Dp]
};

/// The gradients of a chunk on their way, and sums over all of them.
template <typename T>
struct MixGradients {
  MixGradients(const MixHead& head, bool own_linear, Workspace& space)
      : raw(head.group, head.D, space.shared),
        window(head.group, head.D, space.shared),
        linear(head.group, own_linear ? head.D : 0, space.shared),
        gate(space.shared.take<T>(head.beyond_window ? kChunk * padded<T>(head.D) : 0)),
        along(space.shared.take<T>(head.group * kChunk)),
        mean(space.shared.take<T>(head.group * kChunk)),
        mass(space.shared.take<T>(head.group * kChunk)),
        late(head.beyond_window ? head.window + kChunk : 0),
        late_k(space.own.take<T>(late * padded<T>(head.D))),
        late_v(space.own.take<T>(late * padded<T>(head.D))),
        scalars(space.own.take<T>(kHeadScalars * head.group)),
        head_(head),
        own_linear_(own_linear) {}

  T& scalar(HeadScalar which, int64_t h) const { return scalars[which * head_.group + h]; }

  /// Where the recurrence's go: rows of their own, cleared, or at once to `raw`.
  LinearRows<T> linear_rows() const {
    if (!own_linear_) return {raw.q, raw.k, raw.k, raw.v};
    linear.clear(head_.group, head_.D);
    if (!head_.beyond_window) return {linear.q, linear.k, raw.k, raw.v};
    std::memset(gate, 0, sizeof(T) * static_cast<size_t>(kChunk * padded<T>(head_.D)));
    return {linear.q, linear.k, gate, linear.v};
  }

  RawRows<T> raw, window, linear;
  T* gate;
  T *along, *mean, *mass;  ///< [group][kChunk]: grad_o . the recurrence's output and . the window's; of the mass
  int64_t late;            ///< rows of the rings below: token t is row t % late
  T *late_k, *late_v;      ///< of tokens that entered the state in a later chunk
  T* scalars;              ///< [kHeadScalars][group]

 private:
  MixHead head_;
  bool own_linear_;
};

}  // namespace
}  // namespace liger
