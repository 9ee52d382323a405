// What raw projections become: features, and log-decays of keys. A warp has a row, lane l its elements l, l + 32, ...
#pragma once

#include "liger_kernels.h"
#include "tile.cuh"

namespace liger::kernels {

template <int n>
LIGER_DEVICE float sum_of_row(const float (&x)[n]) {
  float total = 0;
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) total += x[c];
  return sum_over_warp(total);
}

/// The log-decay of a key (or of the mean of its channels) x of key/value head `kv_head`.
LIGER_DEVICE float log_decay(const Features& f, float x, int64_t kv_head) {
  if (f.gate == Gate::kConstant) return f.constants ? f.constants[kv_head] : 0;
  if (f.gate == Gate::kExp) return -expf(fminf(x, 20)) / f.divisor;
  const float y = f.gate == Gate::kLogSigmoid ? -x : x;
  return -(fmaxf(y, 0) + log1pf(expf(-fabsf(y)))) / f.divisor;  // -softplus(y)
}

/// A raw row to its feature.
template <int n>
LIGER_DEVICE void make_feature(Map how, float (&x)[n]) {
  float scale = 1;
  if (how == Map::kSoftmax) {
    float largest = x[0];
    LIGER_UNROLL
    for (int c = 1; c < n; ++c) largest = fmaxf(largest, x[c]);
    largest = max_over_warp(largest);
    LIGER_UNROLL
    for (int c = 0; c < n; ++c) x[c] = expf(x[c] - largest);
    scale = 1 / sum_of_row(x);
  } else if (how == Map::kUnit) {
    float squares = 0;
    LIGER_UNROLL
    for (int c = 0; c < n; ++c) squares += x[c] * x[c];
    scale = 1 / sqrtf(sum_over_warp(squares) + 1e-6f);
  } else if (how == Map::kComplement) {
    LIGER_UNROLL
    for (int c = 0; c < n; ++c) x[c] = 1 / (1 + expf(x[c]));
  }
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) x[c] *= scale;
}

}  // namespace liger::kernels
