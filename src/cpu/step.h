// One token through the token mixer of one sequence and key/value head: states and window are changed where they lie.
#pragma once

#include <utility>

#include "cpu/features.h"
#include "cpu/kernels.h"
#include "cpu/mix_rows.h"
#include "cpu/window.h"

namespace liger {
namespace {

/// S = diag(a) S + k v^T and o = q^T S, in one pass over S [K][V]; with the delta rule in two.
class StateStep {
 public:
  StateStep(const Structure& s, int64_t group, int64_t K, int64_t V) : s_(s), group_(group), K_(K), V_(V) {}

  /// q [group][q_row]; v [V] becomes what is written; o [group][V] with rows of o_row.
  void run(const float* q, int64_t q_row, const float* k, const float* a, float b, float* v, float* S, float* o,
           int64_t o_row) const {
    if (s_.delta_rule) correct(k, a, b, S, v);
    for (int64_t h = 0; h < group_; ++h) std::memset(o + h * o_row, 0, sizeof(float) * static_cast<size_t>(V_));
    for (int64_t i = 0; i < K_; ++i) {
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
      for (int64_t i = 0; i < K_; ++i) error -= k[i] * a[i] * load(S + i * V_ + c);
      store(v + c, b * error);
    }
    for (; c < V_; ++c) {
      float error = v[c];
      for (int64_t i = 0; i < K_; ++i) error -= k[i] * a[i] * S[i * V_ + c];
      v[c] = b * error;
    }
  }

  const Structure& s_;
  int64_t group_, K_, V_;
};

class MixStepRun {
 public:
  MixStepRun(const MixHead& head, Arena& arena)
      : head_(head),
        K_(head.structure ? head.structure->feature_dim(head.D) : 0),
        Kp_(padded<float>(K_)),
        Dp_(padded<float>(head.D + 1)),  // one more where the sum of keys is a column of the state
        q_(rows(arena)),
        k_(arena.take<float>(Dp_)),
        v_(arena.take<float>(Dp_)),
        late_(head.beyond_window),
        late_k_(arena.take<float>(late_ ? Dp_ : 0)),
        late_rotated_(arena.take<float>(late_ ? Dp_ : 0)),
        late_v_(arena.take<float>(late_ ? Dp_ : 0)),
        rotated_(rows(arena)),
        scaled_(arena.take<float>(Dp_)),
        feature_(arena.take<float>(Kp_)),
        a_(arena.take<float>(Kp_)),
        queries_(arena.take<float>(head.group * Kp_)),
        linear_(rows(arena)),
        window_(rows(arena)),
        lse_(arena.take<float>(head.group)),
        weights_(arena.take<float>(padded<float>(head.window + head.sinks))) {}

  void run(const MixForward& out) {
    const float *q = static_cast<const float*>(head_.q), *k = static_cast<const float*>(head_.k),
                *v = static_cast<const float*>(head_.v);
    for (int64_t h = 0; h < head_.group; ++h) load_row(q + h * head_.D, head_.D, q_ + h * Dp_);
    load_row(k, head_.D, k_);
    load_row(v, head_.D, v_);
    const bool enters = !late_ || take_leaving(out);
    if (head_.window > 0) attend(out);
    if (head_.structure) {
      if (!enters) hold();
      recur(static_cast<float*>(out.states[0]), static_cast<float*>(out.states[1]), enters);
    }
    float* o = static_cast<float*>(out.o);
    for (int64_t h = 0; h < head_.group; ++h) {
      const auto [share, rest] = shares(h);
      for (int64_t d = 0; d < head_.D; ++d) {
        const float window = window_[h * Dp_ + d], linear = linear_[h * Dp_ + d];
        o[h * head_.D + d] = !head_.structure ? window : head_.window == 0 ? linear : window * share + linear * rest;
      }
    }
  }

 private:
  float* rows(Arena& arena) { return arena.take<float>(head_.group * Dp_); }
  float of_query(HeadScalar which, int64_t h, float otherwise) const {
    return Scalars<float>(head_).of_query(which, h, otherwise);
  }
  float of_key(HeadScalar which, float otherwise) const { return Scalars<float>(head_).of_key(which, otherwise); }

  // The shares of window and recurrence.
  std::pair<float, float> shares(int64_t h) const {
    if (!head_.structure || head_.structure->normalizer != Normalizer::kShared) {
      const float share = static_cast<float>(head_.window_share);
      return {of_query(kWindowWeight, h, share), of_query(kLinearWeight, h, 1 - share)};
    }
    const float mass = linear_[h * Dp_ + head_.D];
    if (!(mass > 0)) return {1.0f, 0.0f};
    const float share = 1 / (1 + std::exp(of_query(kLinearWeight, h, 0) + std::log(mass) - lse_[h]));
    return {share, 1 - share};
  }

  // The token that this one pushes out of the window, before its slot is written; false if there is none for the state.
  bool take_leaving(const MixForward& out) {
    const int64_t position = head_.seen - head_.window;
    if (position < head_.sinks) return false;
    const int64_t slot = position % head_.window * head_.D;
    load_row(static_cast<const float*>(out.ring_raw_keys) + slot, head_.D, late_k_);
    load_row(static_cast<const float*>(out.ring_keys) + slot, head_.D, late_rotated_);
    load_row(static_cast<const float*>(out.ring_values) + slot, head_.D, late_v_);
    return true;
  }
  // Zeros in place of a token that does not exist.
  void hold() {
    for (float* row : {late_k_, late_rotated_, late_v_}) std::memset(row, 0, sizeof(float) * static_cast<size_t>(Dp_));
  }

  // x * scale, rotated where features are.
  const float* source(const float* x, float scale, float* to) const {
    if (head_.rotates_features) {
      rotate<float>(1, x, head_.cos, head_.sin, head_.D, scale, 1, to);
    } else {
      for (int64_t d = 0; d < head_.D; ++d) to[d] = x[d] * scale;
    }
    for (int64_t d = head_.D; d < padded<float>(head_.D); ++d) to[d] = 0;
    return to;
  }

  void recur(float* first, float* second, bool enters) {
    const Structure& s = *head_.structure;
    const RowMaps<float> maps{head_.D};
    const float* gate = late_ ? late_k_ : k_;
    const float factor = std::exp(of_key(kLogGate, 0)), inverse = factor / static_cast<float>(head_.divisor);
    const float mean = maps.mean(gate);
    const auto log_decay_at = [&](int64_t d) {
      if (!s.gated()) return splat(static_cast<float>(head_.constant_log_decay) * factor);
      return log_decay(s.decay, s.per_channel ? load(gate + d) : splat(mean), inverse);
    };
    maps.each([&](int64_t d) { store(a_ + d, exp(log_decay_at(d))); });
    for (int64_t d = head_.D; d < K_; ++d) a_[d] = a_[d - head_.D];
    float* v = late_ ? late_v_ : v_;
    for (int64_t h = 0; h < head_.group; ++h) source(q_ + h * Dp_, of_query(kQueryScale, h, 1), rotated_ + h * Dp_);
    const float* key = source_key();
    if (s.slots) {
      maps.each([&](int64_t d) { store(feature_ + d, -expm1_negative(log_decay_at(d))); });
    } else {
      maps.map(s.key, key, feature_);
      for (int64_t h = 0; h < head_.group; ++h) maps.map(s.query, rotated_ + h * Dp_, queries_ + h * Kp_);
    }
    float b = s.delta_rule ? sigmoid<float>(splat(mean))[0] : 0;
    if (!enters) {
      for (int64_t d = 0; d < K_; ++d) feature_[d] = 0, a_[d] = 1;
      b = 0;
    }
    if (s.slots) read_slots(first, key);
    if (s.normalizes()) v[head_.D] = 1;
    const int64_t V = head_.D + (s.normalizes() ? 1 : 0);
    float* state = s.slots ? second : first;
    StateStep(s, head_.group, K_, V).run(queries_, Kp_, feature_, a_, b, v, state, linear_, Dp_);
    if (!s.normalizes()) return;
    for (int64_t h = 0; h < head_.group; ++h) {
      const float mass = linear_[h * Dp_ + head_.D];
      const float scale = s.normalizer == Normalizer::kAtLeastOne ? 1 / std::max(std::abs(mass), 1.0f)
                          : mass > 0                              ? 1 / mass
                                                                  : 0;
      for (int64_t d = 0; d < head_.D; ++d) linear_[h * Dp_ + d] *= scale;
    }
  }
  // What the key's features are of: a key in the ring is rotated already.
  const float* source_key() {
    const float scale = of_key(kKeyScale, 1);
    if (!late_) return source(k_, scale, scaled_);
    const float* from = head_.rotates_features ? late_rotated_ : late_k_;
    for (int64_t d = 0; d < padded<float>(head_.D); ++d) scaled_[d] = from[d] * scale;
    return scaled_;
  }

  // S = S diag(a) + k s^T; the queries become softmax(S^T q).
  void read_slots(float* S, const float* key) {
    const int64_t D = head_.D;
    std::memset(linear_, 0, sizeof(float) * static_cast<size_t>(head_.group * Dp_));
    for (int64_t i = 0; i < D; ++i)
      for (int64_t m = 0; m < D; ++m) {
        const float value = S[i * D + m] * a_[m] + key[i] * feature_[m];
        S[i * D + m] = value;
        for (int64_t h = 0; h < head_.group; ++h) linear_[h * Dp_ + m] += rotated_[h * Dp_ + i] * value;
      }
    const RowMaps<float> maps{D};
    for (int64_t h = 0; h < head_.group; ++h) maps.softmax(linear_ + h * Dp_, queries_ + h * Kp_);
  }

  // Puts the token's key and value into their slot, then looks at all that are in sight.
  void attend(const MixForward& out) {
    float *keys = static_cast<float*>(out.ring_keys), *values = static_cast<float*>(out.ring_values);
    const int64_t D = head_.D, window = head_.window, position = head_.seen;
    remember(position % window, out);
    if (position < head_.sinks) remember(window + position, out);
    const int64_t recent = position + 1 < window ? position + 1 : window;
    const int64_t gone = position - window + 1, sinks = gone < 0 ? 0 : gone < head_.sinks ? gone : head_.sinks;
    for (int64_t h = 0; h < head_.group; ++h) {
      float *q = rotated_ + h * Dp_, *o = window_ + h * Dp_;
      rotate<float>(1, q_ + h * Dp_, head_.cos, head_.sin, D, 1 / std::sqrt(static_cast<float>(D)), 1, q);
      scores(q, keys, recent, weights_);
      scores(q, keys + window * D, sinks, weights_ + recent);
      const auto [largest, total] = exponentials(recent + sinks);
      lse_[h] = largest + std::log(total);
      std::memset(o, 0, sizeof(float) * static_cast<size_t>(D));
      weigh(values, recent, weights_, 1 / total, o);
      weigh(values + window * D, sinks, weights_ + recent, 1 / total, o);
    }
  }
  void remember(int64_t slot, const MixForward& out) const {
    const int64_t at = slot * head_.D;
    rotate<float>(1, k_, head_.cos, head_.sin, head_.D, 1, 1, static_cast<float*>(out.ring_keys) + at);
    store_row(v_, head_.D, static_cast<float*>(out.ring_values) + at);
    if (late_) store_row(k_, head_.D, static_cast<float*>(out.ring_raw_keys) + at);
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
  // Returns the largest weight, which all are taken relative to, and their sum.
  std::pair<float, float> exponentials(int64_t n) {
    const RowMaps<float> maps{n};
    float best = weights_[0];
    for (int64_t j = 1; j < n; ++j) best = weights_[j] > best ? weights_[j] : best;
    maps.each([&](int64_t j) { store(weights_ + j, exp(load(weights_ + j) - best)); });
    maps.clear_padding(weights_);
    return {best, maps.mean(weights_) * static_cast<float>(n)};
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
  int64_t K_, Kp_, Dp_;
  float *q_, *k_, *v_;
  bool late_;  // the token that leaves the window enters the state
  float *late_k_, *late_rotated_, *late_v_;
  float *rotated_, *scaled_;  // [group][Dp], [Dp]: what features are of
  float *feature_, *a_, *queries_;
  float *linear_, *window_, *lse_, *weights_;
};

}  // namespace
}  // namespace liger
