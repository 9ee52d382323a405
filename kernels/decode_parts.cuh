// What the decoding step's parts share: where things lie in shared memory, and which of them a thread has.
#pragma once

#include "decode_step.h"
#include "features.cuh"
#include "rows.cuh"

namespace liger::kernels::decode {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kHeads = 4;            ///< query heads whose sums are in registers at once
constexpr int kKeyFloats = 8 * 1024; ///< of the ring's keys in shared memory at once
constexpr int kValueRows = 64;       ///< likewise rows of values

enum class Kind { kPlain, kDelta, kNormalized, kSlots };

struct alignas(16) Quad {
  float x[4] = {};
};
LIGER_DEVICE Quad load_quad(const float* from) { return *reinterpret_cast<const Quad*>(from); }
LIGER_DEVICE void store_quad(const Quad& x, float* to) { *reinterpret_cast<Quad*>(to) = x; }
LIGER_DEVICE void add(float a, const Quad& x, Quad& to) {
  LIGER_UNROLL
  for (int j = 0; j < 4; ++j) to.x[j] += a * x.x[j];
}

/// Of a thread, for each of kHeads query heads: four columns of a sum over its rows.
struct Sums {
  Quad of[kHeads];
};

/// Where things lie in shared memory, in floats.
struct Layout {
  int heads;          ///< the group's query heads, up to a multiple of kHeads; of those beyond there are zeros
  int all_keys;       ///< that may be seen besides the token's own
  int rows;           ///< [D, 4]: of each row of a state its decay, its key, and one more (see prepare_key)
  int queries;        ///< [heads / kHeads, D, kHeads]
  int value;          ///< [D]
  int written;        ///< [D]: d of the delta rule
  int column_decay;   ///< [D]: of slots
  int column_write;   ///< [D]: s of slots
  int slot_scores;    ///< [heads, D]
  int rotated;        ///< [heads + 1, D]: the queries, scaled, and the key
  int keys;           ///< kKeyFloats of the ring
  int values;         ///< [kValueRows, C] of the ring
  int weights;        ///< [heads / kHeads, all_keys, kHeads]: scores, then weights of the keys before the token's
  int of_token;       ///< [heads]: the weight of the token's own key
  int products;       ///< [heads]: q . k
  int strength;       ///< b of the delta rule
  int partial;        ///< [kWarps, kHeads, C]
  int partial_delta;  ///< [kWarps, C]
  int64_t total;
};

template <int D, int C, Kind kKind>
Layout lay_out(const DecodeStep& p) {
  Layout at = {};
  const auto take = [&](int64_t n) {
    const int64_t here = at.total;
    at.total += (n + 3) / 4 * 4;
    return static_cast<int>(here);
  };
  at.heads = static_cast<int>((p.H / p.Hkv + kHeads - 1) / kHeads * kHeads);
  at.all_keys = p.window > 0 ? static_cast<int>(p.window - 1 + p.sinks) : 0;
  at.rows = take(D * 4);
  at.queries = take(D * at.heads);
  at.value = take(D);
  at.written = take(kKind == Kind::kDelta ? D : 0);
  at.column_decay = take(kKind == Kind::kSlots ? D : 0);
  at.column_write = take(kKind == Kind::kSlots ? D : 0);
  at.slot_scores = take(kKind == Kind::kSlots ? at.heads * D : 0);
  at.rotated = take(p.window > 0 ? (at.heads + 1) * D : 0);
  at.keys = take(p.window > 0 ? kKeyFloats : 0);
  at.values = take(p.window > 0 ? kValueRows * C : 0);
  at.of_token = take(at.heads);
  at.products = take(at.heads);
  at.strength = take(1);
  at.partial = take(kWarps * kHeads * C);
  at.partial_delta = take(kKind == Kind::kDelta ? kWarps * C : 0);
  at.weights = take(static_cast<int64_t>(at.all_keys) * at.heads);  // last: it may be any size
  return at;
}

/// What a launch takes.
struct Job {
  DecodeStep p;
  Layout at;
};

/// Which four columns of a tile of C, of which rows, a thread has. kSingly: of rows that are aligned to 4 bytes only.
template <int C, bool kSingly>
struct Place {
  static constexpr int kLanes = C / 4;             ///< threads that have a row together
  static constexpr int kRows = kThreads / kLanes;  ///< rows that all of them have at once

  static LIGER_DEVICE int row() { return static_cast<int>(threadIdx.x) / kLanes; }
  static LIGER_DEVICE int place() { return static_cast<int>(threadIdx.x) % kLanes; }
  static LIGER_DEVICE Quad get(const float* row) {
    if constexpr (kSingly) {
      return {{row[place()], row[place() + kLanes], row[place() + 2 * kLanes], row[place() + 3 * kLanes]}};
    } else {
      return load_quad(row + 4 * place());
    }
  }
  static LIGER_DEVICE void put(const Quad& x, float* row) {
    if constexpr (kSingly) {
      LIGER_UNROLL
      for (int j = 0; j < 4; ++j) row[place() + j * kLanes] = x.x[j];
    } else {
      store_quad(x, row + 4 * place());
    }
  }
};

/// A row of a token's: a warp has it, lane l the elements l, l + 32, ...
template <int D>
using Row = float[D / 32];

LIGER_DEVICE float load_element(Type type, const void* from, int64_t i) {
  if (type == Type::kFloat) return static_cast<const float*>(from)[i];
  if (type == Type::kBFloat16) return to_float(static_cast<const BFloat16*>(from)[i]);
  return to_float(static_cast<const Half*>(from)[i]);
}
LIGER_DEVICE void store_element(Type type, float x, void* to, int64_t i) {
  if (type == Type::kFloat) {
    static_cast<float*>(to)[i] = x;
  } else if (type == Type::kBFloat16) {
    round_to(x, static_cast<BFloat16*>(to)[i]);
  } else {
    round_to(x, static_cast<Half*>(to)[i]);
  }
}
template <int n>
LIGER_DEVICE void load_row(Type type, const void* from, int64_t row, float (&x)[n]) {
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) x[c] = load_element(type, from, row * (32 * n) + lane() + 32 * c);
}
template <int n>
LIGER_DEVICE void store_row(const float (&x)[n], float* to, int stride = 1) {
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) to[(lane() + 32 * c) * stride] = x[c];
}
/// The halves of a row turned by its token's angles, [D / 2] cosines and sines; a lane has both of a pair.
template <int n>
LIGER_DEVICE void rotate_row(const float* cosines, const float* sines, const float (&x)[n], float scale,
                             float (&out)[n]) {
  LIGER_UNROLL
  for (int c = 0; c < n / 2; ++c) {
    const float cos = cosines[lane() + 32 * c] * scale, sin = sines[lane() + 32 * c] * scale;
    out[c] = x[c] * cos - x[c + n / 2] * sin;
    out[c + n / 2] = x[c + n / 2] * cos + x[c] * sin;
  }
}
template <int n>
LIGER_DEVICE float product(const float (&x)[n], const float (&y)[n]) {
  float total = 0;
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) total += x[c] * y[c];
  return sum_over_warp(total);
}

}  // namespace liger::kernels::decode
