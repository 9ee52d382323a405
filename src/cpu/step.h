// One token through the token mixer of one sequence and key/value head: states and window are changed where they lie.
#pragma once

#include "cpu/features.h"
#include "cpu/kernels.h"
#include "cpu/window.h"

namespace liger {
namespace {

/// S = diag(a) S + k v^T and o = q^T S, in one pass over S [D][V]; with the delta rule in two.
class StateStep {
 public:
  StateStep(const Structure& s, int64_t group, int64_t D, int64_t V) : s_(s), group_(group), D_(D), V_(V) {}

  /// q [group][q_row]; v [V] becomes what is written; o [group][V] with rows of o_row.
  void run(const float* q, int64_t q_row, const float* k, const float* a, float b, float* v, float* S, float* o,
           int64_t o_row) const {
    if (s_.delta_rule) correct(k, a, b, S, v);
    for (int64_t h = 0; h < group_; ++h) std::memset(o + h * o_row, 0, sizeof(float) * static_cast<size_t>(V_));
    for (int64_t i = 0; i < D_; ++i) {
      float* row = S + i * V_;
      int64_t c = 0;
      for (; c + kWidth<float> <= V_; c += kWidth<float>) {
        const Vec<float> before = load(row + c), write = k[i] * load(v + c), after = before * a[i] + write;
        store(row + c, after);
        const Vec<float> seen = s_.reads_before_decay ? before + write : after;
        for (int64_t h = 0; h < group_; ++h)
          store(o + h * o_row + c, load(o + h * o_row + c) + q[h * q_row + i] * seen);
      }
      for (; c < V_; ++c) {
        const float before = row[c], write = k[i] * v[c];
        row[c] = before * a[i] + write;
        const float seen = s_.reads_before_decay ? before + write : row[c];
        for (int64_t h = 0; h < group_; ++h) o[h * o_row + c] += q[h * q_row + i] * seen;
      }
    }
  }

 private:
  // v = b (v - S'^T k) with S' = diag(a) S.
  void correct(const float* k, const float* a, float b, const float* S, float* v) const {
    int64_t c = 0;
    for (; c + kWidth<float> <= V_; c += kWidth<float>) {
      Vec<float> error = load(v + c);
      for (int64_t i = 0; i < D_; ++i) error -= k[i] * a[i] * load(S + i * V_ + c);
      store(v + c, b * error);
    }
    for (; c < V_; ++c) {
      float error = v[c];
      for (int64_t i = 0; i < D_; ++i) error -= k[i] * a[i] * S[i * V_ + c];
      v[c] = b * error;
    }
  }

  const Structure& s_;
  int64_t group_, D_, V_;
};

class MixStepRun {
 public:
  MixStepRun(const MixHead& head, Arena& arena)
      : head_(head),
        Dp_(padded<float>(head.D + 1)),  // one more where the sum of keys is a column of the state
        q_(rows(arena)),
        k_(arena.take<float>(Dp_)),
        v_(arena.take<float>(Dp_)),
        feature_(arena.take<float>(Dp_)),
        a_(arena.take<float>(Dp_)),
        queries_(rows(arena)),
        linear_(rows(arena)),
        window_(rows(arena)),
        weights_(arena.take<float>(padded<float>(head.window + head.sinks))) {}

  void run(const MixForward& out) {
    const float *q = static_cast<const float*>(head_.q), *k = static_cast<const float*>(head_.k),
                *v = static_cast<const float*>(head_.v);
    for (int64_t h = 0; h < head_.group; ++h) load_row(q + h * head_.D, head_.D, q_ + h * Dp_);
    load_row(k, head_.D, k_);
    load_row(v, head_.D, v_);
    if (head_.window > 0) attend(static_cast<float*>(out.ring_keys), static_cast<float*>(out.ring_values));
    if (head_.structure) recur(static_cast<float*>(out.states[0]), static_cast<float*>(out.states[1]));
    const float share = static_cast<float>(head_.window_share);
    float* o = static_cast<float*>(out.o);
    for (int64_t h = 0; h < head_.group; ++h)
      for (int64_t d = 0; d < head_.D; ++d) {
        const float window = window_[h * Dp_ + d], linear = linear_[h * Dp_ + d];
        const float both = window * share + linear * (1 - share);
        o[h * head_.D + d] = !head_.structure ? window : head_.window == 0 ? linear : both;
      }
  }

 private:
  float* rows(Arena& arena) { return arena.take<float>(head_.group * Dp_); }

  void recur(float* first, float* second) {
    const Structure& s = *head_.structure;
    const RowMaps<float> maps{head_.D};
    const float inverse = static_cast<float>(1 / head_.divisor), mean = maps.mean(k_);
    const auto log_decay_at = [&](int64_t d) {
      if (!s.gated()) return splat(static_cast<float>(head_.constant_log_decay));
      return log_decay(s.decay, s.per_channel ? load(k_ + d) : splat(mean), inverse);
    };
    maps.each([&](int64_t d) { store(a_ + d, exp(log_decay_at(d))); });
    if (s.slots) {
      maps.each([&](int64_t d) { store(feature_ + d, -expm1_negative(log_decay_at(d))); });
      read_slots(first);
    } else {
      maps.map(s.key, k_, feature_);
      for (int64_t h = 0; h < head_.group; ++h) maps.map(s.query, q_ + h * Dp_, queries_ + h * Dp_);
    }
    if (s.normalizes) v_[head_.D] = 1;
    const float b = s.delta_rule ? sigmoid<float>(splat(mean))[0] : 0;
    const int64_t V = head_.D + (s.normalizes ? 1 : 0);
    float* state = s.slots ? second : first;
    StateStep(s, head_.group, head_.D, V).run(queries_, Dp_, feature_, a_, b, v_, state, linear_, Dp_);
    if (!s.normalizes) return;
    for (int64_t h = 0; h < head_.group; ++h) {
      const float n = std::abs(linear_[h * Dp_ + head_.D]), scale = 1 / (n > 1 ? n : 1.0f);
      for (int64_t d = 0; d < head_.D; ++d) linear_[h * Dp_ + d] *= scale;
    }
  }

  // S = S diag(a) + k s^T; the queries become softmax(S^T q).
  void read_slots(float* S) {
    const int64_t D = head_.D;
    std::memset(linear_, 0, sizeof(float) * static_cast<size_t>(head_.group * Dp_));
    for (int64_t i = 0; i < D; ++i)
      for (int64_t m = 0; m < D; ++m) {
        const float value = S[i * D + m] * a_[m] + k_[i] * feature_[m];
        S[i * D + m] = value;
        for (int64_t h = 0; h < head_.group; ++h) linear_[h * Dp_ + m] += q_[h * Dp_ + i] * value;
      }
    const RowMaps<float> maps{D};
    for (int64_t h = 0; h < head_.group; ++h) maps.softmax(linear_ + h * Dp_, queries_ + h * Dp_);
  }

  // Puts the token's key and value into their slot, then looks at all that are in sight.
  void attend(float* keys, float* values) {
    const int64_t D = head_.D, window = head_.window, position = head_.seen;
    remember(position % window, keys, values);
    if (position < head_.sinks) remember(window + position, keys, values);
    const int64_t recent = position + 1 < window ? position + 1 : window;
    const int64_t gone = position - window + 1, sinks = gone < 0 ? 0 : gone < head_.sinks ? gone : head_.sinks;
    for (int64_t h = 0; h < head_.group; ++h) {
      float *q = queries_ + h * Dp_, *o = window_ + h * Dp_;
      rotate<float>(1, q_ + h * Dp_, head_.cos, head_.sin, D, 1 / std::sqrt(static_cast<float>(D)), 1, q);
      scores(q, keys, recent, weights_);
      scores(q, keys + window * D, sinks, weights_ + recent);
      const float scale = 1 / exponentials(recent + sinks);
      std::memset(o, 0, sizeof(float) * static_cast<size_t>(D));
      weigh(values, recent, weights_, scale, o);
      weigh(values + window * D, sinks, weights_ + recent, scale, o);
    }
  }
  void remember(int64_t slot, float* keys, float* values) const {
    rotate<float>(1, k_, head_.cos, head_.sin, head_.D, 1, 1, keys + slot * head_.D);
    store_row(v_, head_.D, values + slot * head_.D);
  }
  void scores(const float* q, const float* keys, int64_t n, float* to) const {
    for (int64_t j = 0; j < n; ++j) {
      const float* key = keys + j * head_.D;
      Vec<float> total = {};
      int64_t d = 0;
      for (; d + kWidth<float> <= head_.D; d += kWidth<float>) total += load(q + d) * load(key + d);
      to[j] = sum<float>(total);
      for (; d < head_.D; ++d) to[j] += q[d] * key[d];
    }
  }
  // Returns their sum.
  float exponentials(int64_t n) {
    const RowMaps<float> maps{n};
    float best = weights_[0];
    for (int64_t j = 1; j < n; ++j) best = weights_[j] > best ? weights_[j] : best;
    maps.each([&](int64_t j) { store(weights_ + j, exp(load(weights_ + j) - best)); });
    maps.clear_padding(weights_);
    return maps.mean(weights_) * static_cast<float>(n);
  }
  void weigh(const float* values, int64_t n, const float* weights, float scale, float* o) const {
    for (int64_t j = 0; j < n; ++j) {
      const float weight = weights[j] * scale, *value = values + j * head_.D;
      int64_t d = 0;
      for (; d + kWidth<float> <= head_.D; d += kWidth<float>) store(o + d, load(o + d) + weight * load(value + d));
      for (; d < head_.D; ++d) o[d] += weight * value[d];
    }
  }

  MixHead head_;
  int64_t Dp_;
  float *q_, *k_, *v_, *feature_, *a_;
  float *queries_, *linear_, *window_, *weights_;
};

}  // namespace
}  // namespace liger
