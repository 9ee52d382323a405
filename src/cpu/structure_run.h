// A structure (core/structure.h) over the chunks of one sequence and one key/value head: queries, keys and values in,
// outputs of its recurrence out.
#pragma once

#include <type_traits>

#include "cpu/features.h"
#include "cpu/scan_backward.h"
#include "cpu/slots.h"

namespace liger {
namespace {

/// One head's share of a structure's settings.
struct StructureHead {
  const Structure* structure;
  int64_t group, D;
  double gate_factor;         ///< of the log-decay: exp(log_gate) / divisor
  double constant_log_decay;  ///< where the decay does not depend on the key; the factor is in it
};

/// What a recurrence reads of a chunk, or the gradients of it: rows [group][kChunk][Dp] of queries, [kChunk][Dp] of the
/// others. Features are made of q and k, decay and strength of `gate`.
template <typename T>
struct LinearRows {
  T *q, *k, *gate, *v;
  int64_t begin =
      0;  ///< keys and values of the rows before it do not exist; past the chunk's tokens all rows are zeros
};

template <typename T, bool kBackward = false>
class StructureRun {
 public:
  StructureRun(const StructureHead& head, Arena& arena, Ahead& ahead)
      : head_(head),
        structure_(*head.structure),
        maps_{head.D},
        shape_{head.group, structure_.feature_dim(head.D), head.D + (structure_.normalizes() ? 1 : 0),
               structure_.delta_rule, structure_.reads_before_decay},
        rows_(shape_, arena),
        scan_(shape_, arena, ahead),
        slots_(head.group, head.D, structure_.slots ? head.D : 0, arena),
        z_(take(arena, structure_.slots)),
        mass_(arena.take<T>(head.group * kChunk)),
        grads_(shape_, arena),
        grad_o_(arena.take<T>(kBackward ? head.group * kChunk * shape_.Vp : 0)),
        dz_(take(arena, kBackward && structure_.slots)),
        slot_key_(arena.take<T>(kBackward && structure_.slots ? kChunk * maps_.Dp : 0)) {}

  /// One state, or two with slots: state_rows() rows of `state_row` values, the first `state_columns` of them used.
  int states() const { return structure_.slots ? 2 : 1; }
  int64_t state_rows() const { return shape_.K; }
  int64_t state_columns() const { return shape_.V; }
  int64_t state_row() const { return shape_.Sp; }
  int64_t state_size() const { return shape_.K * shape_.Sp; }

  /// o [group][kChunk][Dp] of n tokens; the states advance.
  void forward(int64_t n, const LinearRows<T>& x, T* const* states, T* o) {
    keys(n, x);
    queries(n, x, states[0]);
    if (structure_.slots) slots_.advance(slot_rows(x), states[0], states[0]);
    divide(scan_.forward(rows_, states[scanned()]), o);
  }

  /// Only the states.
  void advance(int64_t n, const LinearRows<T>& x, const T* const* from, T* const* to) {
    keys(n, x);
    if (structure_.slots) slots_.advance(slot_rows(x), from[0], to[0]);
    scan_.advance(rows_, from[scanned()], to[scanned()]);
  }

  /// Of the chunk last run, [group][kChunk]: what its queries find in the state, where the structure normalizes.
  const T* mass() const { return mass_; }

  /// The first half of a chunk's backward pass, and its o where that is given. `before` are the states before it.
  void prepare(int64_t n, const LinearRows<T>& x, const T* const* before, T* o)
    requires kBackward
  {
    keys(n, x);
    queries(n, x, before[0]);
    if (o) divide(scan_.outputs(rows_, before[scanned()]), o);
  }
  /// The second: adds the gradients of the chunk to `grad`. dS come in as the gradients of the states after the chunk
  /// and leave as those of `before`. grad_o as o, zeros past the end; with a normalizer prepare() has left o in it.
  /// d_mass: a gradient of mass(), or nullptr. d_log_gate is added to if it is not nullptr.
  void backward(int64_t n, const LinearRows<T>& x, const T* const* before, const T* o, const T* grad_o, const T* d_mass,
                T* const* dS, const LinearRows<T>& grad, T* d_log_gate)
    requires kBackward
  {
    const T* grad_scan = structure_.normalizes() ? divide_backward(o, grad_o, d_mass) : grad_o;
    scan_.backward(rows_, before[scanned()], grad_scan, dS[scanned()], grads_);
    if (structure_.slots) slots_backward(n, x, before[0], dS[0]);
    features_backward(n, x, grad, d_log_gate);
  }

 private:
  using Scan = std::conditional_t<kBackward, ChunkScanBackward<T>, ChunkScan<T>>;
  using Slots = std::conditional_t<kBackward, ChunkSlotsBackward<T>, ChunkSlots<T>>;
  struct NoGradients {
    NoGradients(const ScanShape<T>&, Arena&) {}
  };
  using Gradients = std::conditional_t<kBackward, ScanGradients<T>, NoGradients>;

  int scanned() const { return structure_.slots ? 1 : 0; }  // the state of the second pass
  T* take(Arena& arena, bool wanted) { return arena.take<T>(wanted ? head_.group * kChunk * maps_.Dp : 0); }
  SlotRows<T> slot_rows(const LinearRows<T>& x) const { return {x.q, x.k, rows_.k, rows_.a}; }

  // Rows to the inputs of the scan: keys, values and decays,
  void keys(int64_t n, const LinearRows<T>& x) {
    const int64_t Dp = maps_.Dp;
    for (int64_t i = 0; i < kChunk; ++i) {
      if (i < x.begin || i >= n) {
        leave_out(i);
        continue;
      }
      gate(x.gate + i * Dp, i);
      if (!structure_.slots) maps_.map(structure_.key, x.k + i * Dp, rows_.k + i * shape_.Kp);
      load_row(x.v + i * Dp, head_.D, rows_.v + i * shape_.Vp);
      if (structure_.normalizes()) rows_.v[i * shape_.Vp + head_.D] = 1;
    }
  }
  // and queries; with slots they are what a first pass over the state `S` reads.
  void queries(int64_t n, const LinearRows<T>& x, const T* S) {
    if (structure_.slots) return query_slots(x, S);
    for (int64_t h = 0; h < head_.group; ++h)
      for (int64_t i = 0; i < kChunk; ++i) {
        const int64_t row = h * kChunk + i;
        if (i < n) {
          maps_.map(structure_.query, x.q + row * maps_.Dp, rows_.q + row * shape_.Kp);
        } else {
          clear(rows_.q + row * shape_.Kp, shape_.Kp);
        }
      }
  }

  // Decay and strength of a token; for slots what is written to them too.
  void gate(const T* k, int64_t i) {
    T* a = rows_.a + i * shape_.Kp;
    const T factor = static_cast<T>(head_.gate_factor);
    if (structure_.per_channel) {
      maps_.each([&](int64_t d) { store(a + d, exp(log_decay(structure_.decay, load(k + d), factor))); });
      for (int64_t d = head_.D; d < shape_.K; ++d) a[d] = a[d - head_.D];
    } else {
      const Vec<T> decay = exp(head_log_decay(k));
      for (int64_t d = 0; d < shape_.Kp; d += kWidth<T>) store(a + d, decay);
    }
    if (structure_.delta_rule) rows_.b[i] = sigmoid<T>(splat(maps_.mean(k)))[0];
    if (structure_.slots) {
      T* s = rows_.k + i * shape_.Kp;
      maps_.each([&](int64_t d) { store(s + d, -expm1_negative(log_decay(structure_.decay, load(k + d), factor))); });
      maps_.clear_padding(s);
    }
  }
  // Of a structure with one decay a head.
  Vec<T> head_log_decay(const T* k) const {
    if (!structure_.gated()) return splat(static_cast<T>(head_.constant_log_decay));
    return log_decay(structure_.decay, splat(maps_.mean(k)), static_cast<T>(head_.gate_factor));
  }

  static void clear(T* row, int64_t size) { std::memset(row, 0, sizeof(T) * static_cast<size_t>(size)); }
  // A row that does not exist leaves the states alone.
  void leave_out(int64_t i) {
    clear(rows_.k + i * shape_.Kp, shape_.Kp);
    clear(rows_.v + i * shape_.Vp, shape_.Vp);
    for (int64_t d = 0; d < shape_.Kp; d += kWidth<T>) store(rows_.a + i * shape_.Kp + d, splat(T(1)));
    rows_.b[i] = 0;
  }

  void query_slots(const LinearRows<T>& x, const T* S) {
    slots_.outputs(slot_rows(x), S, z_);
    for (int64_t r = 0; r < head_.group * kChunk; ++r) maps_.softmax(z_ + r * maps_.Dp, rows_.q + r * maps_.Dp);
  }

  // The scan's outputs to o, divided as the normalizer says.
  void divide(const T* out, T* o) {
    for (int64_t r = 0; r < head_.group * kChunk; ++r) {
      const T* row = out + r * shape_.Vp;
      T scale = 1;
      if (structure_.normalizes()) {
        mass_[r] = row[head_.D];
        scale = inverse_divisor(mass_[r]);
      }
      maps_.each([&](int64_t d) { store(o + r * maps_.Dp + d, load(row + d) * scale); });
      maps_.clear_padding(o + r * maps_.Dp);
    }
  }
  // 0 where the state holds nothing.
  T inverse_divisor(T mass) const {
    if (structure_.normalizer == Normalizer::kAtLeastOne) return 1 / larger(std::abs(mass), 1);
    return mass > 0 ? 1 / mass : 0;
  }
  static T larger(T a, T b) { return a > b ? a : b; }

  // To the gradient of the scan's outputs.
  const T* divide_backward(const T* o, const T* grad_o, const T* d_mass) {
    const bool at_least_one = structure_.normalizer == Normalizer::kAtLeastOne;
    for (int64_t r = 0; r < head_.group * kChunk; ++r) {
      const T *y = o + r * maps_.Dp, *dy = grad_o + r * maps_.Dp;
      T* dx = grad_o_ + r * shape_.Vp;
      const T inverse = inverse_divisor(mass_[r]), along = maps_.dot(y, dy);
      for (int64_t d = 0; d < head_.D; ++d) dx[d] = dy[d] * inverse;
      const bool divides = !at_least_one || std::abs(mass_[r]) > 1;
      dx[head_.D] = divides ? -along * (mass_[r] < 0 ? -inverse : inverse) : 0;
      if (d_mass) dx[head_.D] += d_mass[r];
    }
    return grad_o_;
  }

  void slots_backward(int64_t n, const LinearRows<T>& x, const T* before, T* dS) {
    const int64_t Dp = maps_.Dp;
    clear(dz_, head_.group * kChunk * Dp);
    for (int64_t h = 0; h < head_.group; ++h)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = (h * kChunk + i) * Dp;
        maps_.softmax_backward(rows_.q + at, grads_.q + at, dz_ + at);
      }
    slots_.backward(slot_rows(x), before, dz_, dS, grads_.q, slot_key_, grads_.k, grads_.g);
  }

  void features_backward(int64_t n, const LinearRows<T>& x, const LinearRows<T>& grad, T* d_log_gate) {
    const int64_t Dp = maps_.Dp, Kp = shape_.Kp;
    for (int64_t h = 0; h < head_.group; ++h)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = h * kChunk + i;
        maps_.map_backward(structure_.query, x.q + row * Dp, rows_.q + row * Kp, grads_.q + row * Kp,
                           grad.q + row * Dp);
      }
    for (int64_t i = x.begin; i < n; ++i) {
      const T* dv = grads_.v + i * shape_.Vp;
      T *dk = grad.k + i * Dp, *to = grad.v + i * Dp;
      for (int64_t d = 0; d < head_.D; ++d) to[d] += dv[d];
      if (structure_.slots) {
        const T* key = slot_key_ + i * Dp;
        maps_.each([&](int64_t d) { store(dk + d, load(dk + d) + load(key + d)); });
      } else {
        maps_.map_backward(structure_.key, x.k + i * Dp, rows_.k + i * Kp, grads_.k + i * Kp, dk);
      }
      gate_backward(x.gate + i * Dp, i, grad.gate + i * Dp, d_log_gate);
    }
  }

  void gate_backward(const T* k, int64_t i, T* dk, T* d_log_gate) {
    const T factor = static_cast<T>(head_.gate_factor);
    T *dg = grads_.g + i * shape_.Kp, *a = rows_.a + i * shape_.Kp;
    if (structure_.slots) {  // s = 1 - a
      const T* ds = grads_.k + i * shape_.Kp;
      maps_.each([&](int64_t d) { store(dg + d, load(dg + d) - load(a + d) * load(ds + d)); });
    }
    T dkbar = 0;
    if (structure_.per_channel) {
      for (int64_t d = head_.D; d < shape_.K; ++d) dg[d - head_.D] += dg[d];  // a channel's decay is both features'
      maps_.clear_padding(dg);
      Vec<T> along = {};
      maps_.each([&](int64_t d) {
        store(dk + d, load(dk + d) + load(dg + d) * log_decay_slope(structure_.decay, load(k + d), factor));
        if (d_log_gate) along += load(dg + d) * log_decay(structure_.decay, load(k + d), factor);
      });
      maps_.clear_padding(dk);
      if (d_log_gate) *d_log_gate += sum<T>(along);
    } else {
      T total = 0;
      for (int64_t d = 0; d < shape_.K; ++d) total += dg[d];
      if (structure_.gated()) dkbar += total * log_decay_slope(structure_.decay, splat(maps_.mean(k)), factor)[0];
      if (d_log_gate) *d_log_gate += total * head_log_decay(k)[0];
    }
    if (structure_.delta_rule) {
      const T b = rows_.b[i];
      dkbar += grads_.b[i] * b * (1 - b);
    }
    const T each = dkbar / static_cast<T>(head_.D);
    for (int64_t d = 0; d < head_.D; ++d) dk[d] += each;
  }

  StructureHead head_;
  const Structure& structure_;
  RowMaps<T> maps_;
  ScanShape<T> shape_;
  ScanRows<T> rows_;
  Scan scan_;
  Slots slots_;
  T* z_;     // [group][kChunk][Dp], what queries find in the slots
  T* mass_;  // [group][kChunk]
  Gradients grads_;
  T *grad_o_, *dz_;
  T* slot_key_;  // [kChunk][Dp], the gradient of a key written into slots
};

}  // namespace
}  // namespace liger
