// A structure (core/structure.h) over the chunks of one sequence and one key/value head: raw projections in, outputs
// of its recurrence out.
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
  double divisor;             ///< of the log-decay; 1 where the structure has none
  double constant_log_decay;  ///< where the decay does not depend on the key
};

/// A chunk's raw rows, [group][kChunk][Dp] and [kChunk][Dp] twice; those past its n tokens are zeros.
template <typename T>
struct RawRows {
  T *q, *k, *v;
};

template <typename T, bool kBackward = false>
class StructureRun {
 public:
  StructureRun(const StructureHead& head, Arena& arena, Ahead& ahead)
      : head_(head),
        structure_(*head.structure),
        maps_{head.D},
        shape_{head.group, head.D, head.D + (structure_.normalizes ? 1 : 0), structure_.delta_rule,
               structure_.reads_before_decay},
        rows_(shape_, arena),
        scan_(shape_, arena, ahead),
        slots_(head.group, head.D, structure_.slots ? head.D : 0, arena),
        z_(take(arena, structure_.slots)),
        grads_(shape_, arena),
        grad_o_(arena.take<T>(kBackward ? head.group * kChunk * shape_.Vp : 0)),
        dz_(take(arena, kBackward && structure_.slots)),
        slot_key_(arena.take<T>(kBackward && structure_.slots ? kChunk * maps_.Dp : 0)) {}

  /// One state, or two with slots: [D] rows of `state_row` values, the first `state_columns` of them used.
  int states() const { return structure_.slots ? 2 : 1; }
  int64_t state_columns() const { return shape_.V; }
  int64_t state_row() const { return shape_.Sp; }
  int64_t state_size() const { return head_.D * shape_.Sp; }

  /// o [group][kChunk][Dp] of n tokens; the states advance.
  void forward(int64_t n, const RawRows<T>& raw, T* const* states, T* o) {
    features(n, raw);
    if (structure_.slots) {
      query_slots(raw, states[0]);
      slots_.advance(slot_rows(raw), states[0], states[0]);
    }
    const T* out = scan_.forward(rows_, states[scanned()]);
    for (int64_t r = 0; r < head_.group * kChunk; ++r) {
      const T* row = out + r * shape_.Vp;
      const T scale = structure_.normalizes ? 1 / denominator(row) : 1;
      maps_.each([&](int64_t d) { store(o + r * maps_.Dp + d, load(row + d) * scale); });
      maps_.clear_padding(o + r * maps_.Dp);
    }
  }

  /// Only the states.
  void advance(int64_t n, const RawRows<T>& raw, const T* const* from, T* const* to) {
    features(n, raw);
    if (structure_.slots) slots_.advance(slot_rows(raw), from[0], to[0]);
    scan_.advance(rows_, from[scanned()], to[scanned()]);
  }

  /// Adds the gradients of a chunk to `grad`. `before` are the states before it; dS come in as the gradients of the
  /// states after the chunk and leave as those of `before`. grad_o as o, zeros past the end.
  void backward(int64_t n, const RawRows<T>& raw, const T* const* before, const T* grad_o, T* const* dS,
                const RawRows<T>& grad)
    requires kBackward
  {
    features(n, raw);
    if (structure_.slots) query_slots(raw, before[0]);
    const T* grad_scan = structure_.normalizes ? normalizer_backward(before[0], grad_o) : grad_o;
    scan_.backward(rows_, before[scanned()], grad_scan, dS[scanned()], grads_);
    if (structure_.slots) slots_backward(n, raw, before[0], dS[0]);
    features_backward(n, raw, grad);
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
  SlotRows<T> slot_rows(const RawRows<T>& raw) const { return {raw.q, raw.k, rows_.k, rows_.a}; }

  // Raw rows to the inputs of the scan. With slots, queries come later: they are what the first pass reads.
  void features(int64_t n, const RawRows<T>& raw) {
    const int64_t Dp = maps_.Dp;
    for (int64_t i = 0; i < n; ++i) {
      gate(raw.k + i * Dp, i);
      if (!structure_.slots) {
        maps_.map(structure_.key, raw.k + i * Dp, rows_.k + i * Dp);
        for (int64_t h = 0; h < head_.group; ++h)
          maps_.map(structure_.query, raw.q + (h * kChunk + i) * Dp, rows_.q + (h * kChunk + i) * Dp);
      }
    }
    for (int64_t i = n; i < kChunk; ++i) leave_out(i);
    if (!structure_.normalizes) {
      std::memcpy(rows_.v, raw.v, sizeof(T) * static_cast<size_t>(kChunk * Dp));
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(rows_.v + i * shape_.Vp, raw.v + i * Dp, sizeof(T) * static_cast<size_t>(head_.D));
      rows_.v[i * shape_.Vp + head_.D] = 1;
    }
  }

  // Decay and strength of a token; for slots what is written to them too.
  void gate(const T* k, int64_t i) {
    T* a = rows_.a + i * maps_.Dp;
    const T inverse = static_cast<T>(1 / head_.divisor);
    if (structure_.per_channel) {
      maps_.each([&](int64_t d) { store(a + d, exp(log_decay(structure_.decay, load(k + d), inverse))); });
    } else {
      const Vec<T> g = structure_.gated() ? log_decay(structure_.decay, splat(maps_.mean(k)), inverse)
                                          : splat(static_cast<T>(head_.constant_log_decay));
      const Vec<T> decay = exp(g);
      maps_.each([&](int64_t d) { store(a + d, decay); });
    }
    if (structure_.delta_rule) rows_.b[i] = sigmoid<T>(splat(maps_.mean(k)))[0];
    if (structure_.slots) {
      T* s = rows_.k + i * maps_.Dp;
      maps_.each([&](int64_t d) { store(s + d, -expm1_negative(log_decay(structure_.decay, load(k + d), inverse))); });
      maps_.clear_padding(s);
    }
  }

  // A row past the end of the sequence leaves states and outputs alone.
  void leave_out(int64_t i) {
    const auto clear = [](T* row, int64_t size) { std::memset(row, 0, sizeof(T) * static_cast<size_t>(size)); };
    clear(rows_.k + i * maps_.Dp, maps_.Dp);
    for (int64_t h = 0; h < head_.group; ++h) clear(rows_.q + (h * kChunk + i) * maps_.Dp, maps_.Dp);
    clear(rows_.v + i * shape_.Vp, shape_.Vp);
    maps_.each([&](int64_t d) { store(rows_.a + i * maps_.Dp + d, splat(T(1))); });
    rows_.b[i] = 0;
  }

  void query_slots(const RawRows<T>& raw, const T* S) {
    slots_.outputs(slot_rows(raw), S, z_);
    for (int64_t r = 0; r < head_.group * kChunk; ++r) maps_.softmax(z_ + r * maps_.Dp, rows_.q + r * maps_.Dp);
  }

  T denominator(const T* row) const {
    const T n = std::abs(row[head_.D]);
    return n > 1 ? n : T(1);
  }

  // y = x / max(|n|, 1), with n the last column of the scan's output.
  const T* normalizer_backward(const T* before, const T* grad_o) {
    const T* out = scan_.outputs(rows_, before);
    for (int64_t r = 0; r < head_.group * kChunk; ++r) {
      const T *row = out + r * shape_.Vp, *dy = grad_o + r * maps_.Dp;
      T* dx = grad_o_ + r * shape_.Vp;
      const T n = row[head_.D], inverse = 1 / denominator(row);
      T along = 0;
      for (int64_t d = 0; d < head_.D; ++d) {
        dx[d] = dy[d] * inverse;
        along += dx[d] * row[d];
      }
      dx[head_.D] = std::abs(n) > 1 ? -along / n : 0;
    }
    return grad_o_;
  }

  void slots_backward(int64_t n, const RawRows<T>& raw, const T* before, T* dS) {
    const int64_t Dp = maps_.Dp;
    std::memset(dz_, 0, sizeof(T) * static_cast<size_t>(head_.group * kChunk * Dp));
    for (int64_t h = 0; h < head_.group; ++h)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = (h * kChunk + i) * Dp;
        maps_.softmax_backward(rows_.q + at, grads_.q + at, dz_ + at);
      }
    slots_.backward(slot_rows(raw), before, dz_, dS, grads_.q, slot_key_, grads_.k, grads_.g);
  }

  void features_backward(int64_t n, const RawRows<T>& raw, const RawRows<T>& grad) {
    const int64_t Dp = maps_.Dp;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t h = 0; h < head_.group; ++h) {
        const int64_t at = (h * kChunk + i) * Dp;
        maps_.map_backward(structure_.query, raw.q + at, rows_.q + at, grads_.q + at, grad.q + at);
      }
      const T* dv = grads_.v + i * shape_.Vp;
      T *dk = grad.k + i * Dp, *to = grad.v + i * Dp;
      for (int64_t d = 0; d < head_.D; ++d) to[d] += dv[d];
      if (structure_.slots) {
        const T* key = slot_key_ + i * Dp;
        maps_.each([&](int64_t d) { store(dk + d, load(dk + d) + load(key + d)); });
      } else {
        maps_.map_backward(structure_.key, raw.k + i * Dp, rows_.k + i * Dp, grads_.k + i * Dp, dk);
      }
      gate_backward(raw.k + i * Dp, i, dk);
    }
  }

  void gate_backward(const T* k, int64_t i, T* dk) {
    const T inverse = static_cast<T>(1 / head_.divisor);
    T *dg = grads_.g + i * maps_.Dp, *a = rows_.a + i * maps_.Dp;
    if (structure_.slots) {  // s = 1 - a
      const T* ds = grads_.k + i * maps_.Dp;
      maps_.each([&](int64_t d) { store(dg + d, load(dg + d) - load(a + d) * load(ds + d)); });
    }
    if (structure_.per_channel) {
      maps_.each([&](int64_t d) {
        store(dk + d, load(dk + d) + load(dg + d) * log_decay_slope(structure_.decay, load(k + d), inverse));
      });
      maps_.clear_padding(dk);
    }
    T dkbar = 0;
    if (structure_.gated() && !structure_.per_channel)
      dkbar += maps_.mean(dg) * static_cast<T>(head_.D) *
               log_decay_slope(structure_.decay, splat(maps_.mean(k)), inverse)[0];
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
  T* z_;  // [group][kChunk][Dp], what queries find in the slots
  Gradients grads_;
  T *grad_o_, *dz_;
  T* slot_key_;  // [kChunk][Dp], the gradient of a key written into slots
};

}  // namespace
}  // namespace liger
