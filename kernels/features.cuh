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

/// Derivative of log_decay.
LIGER_DEVICE float log_decay_slope(const Features& f, float x) {
  if (f.gate == Gate::kConstant) return 0;
  if (f.gate == Gate::kExp) return x > 20 ? 0 : -expf(x) / f.divisor;
  const float up = 1 / (1 + expf(x));  // sigmoid(-x)
  return (f.gate == Gate::kLogSigmoid ? up : up - 1) / f.divisor;
}

/// From the gradient d of a raw row's feature, that of the row x.
template <int n>
LIGER_DEVICE void feature_gradient(Map how, float (&x)[n], float (&d)[n]) {
  if (how == Map::kIdentity) return;
  if (how == Map::kForgotten) {  // goes through the decay
    LIGER_UNROLL
    for (int c = 0; c < n; ++c) d[c] = 0;
    return;
  }
  float raw[n];
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) raw[c] = x[c];
  make_feature(how, x);
  float product[n];
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) product[c] = x[c] * d[c];
  const float total = sum_of_row(product);
  float squares[n];
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) squares[c] = raw[c] * raw[c];
  const float length = how == Map::kUnit ? sqrtf(sum_of_row(squares) + 1e-6f) : 1;
  LIGER_UNROLL
  for (int c = 0; c < n; ++c) {
    if (how == Map::kSoftmax) d[c] = x[c] * (d[c] - total);
    if (how == Map::kUnit) d[c] = (d[c] - x[c] * total) / length;
    if (how == Map::kComplement) d[c] = -x[c] * (1 - x[c]) * d[c];
  }
}

/// Rows in shared memory, a warp each: keys to features and log-decays, queries of `heads` heads to features, in place.
/// Rows of tokens past the end become 0 and do not decay. Rows are kRow and kDecayRow elements apart.
template <int K, int kTokens, int kWarps, int kRow, int kDecayRow, typename E>
LIGER_DEVICE void make_features(const Features& f, int64_t kv_head, int there, E* k, float* g, E* q, int heads) {
  for (int row = static_cast<int>(threadIdx.x) / 32; row < kTokens * (1 + heads); row += kWarps) {
    const bool is_key = row < kTokens, exists = row % kTokens < there;
    E* at = (is_key ? k + row * kRow : q + (row - kTokens) * kRow) + lane();
    float x[K / 32];
    LIGER_UNROLL
    for (int c = 0; c < K / 32; ++c) x[c] = to_float(at[32 * c]);
    if (is_key) {
      float* decay = g + row * kDecayRow + lane();
      const float mean = f.per_channel ? 0 : sum_of_row(x) / K;
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c)
        decay[32 * c] = exists ? log_decay(f, f.per_channel ? x[c] : mean, kv_head) : 0;
    }
    if (is_key && f.key == Map::kForgotten) {
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) x[c] = -expm1f(log_decay(f, x[c], kv_head));
    } else {
      make_feature(is_key ? f.key : f.query, x);
    }
    LIGER_UNROLL
    for (int c = 0; c < K / 32; ++c) round_to(exists ? x[c] : 0, at[32 * c]);
  }
}

}  // namespace liger::kernels
