#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "liger/core/model_config.h"

namespace liger {

/// Inputs of a gated linear recurrence with one decay per key channel:
///   S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,   o_t = q_t^T S_t
/// Query heads h share the state of key/value head h / (H / Hkv).
struct ScanInputs {
  at::Tensor q;      ///< [B, T, H, K]   float32 or float64, like all of them
  at::Tensor k;      ///< [B, T, Hkv, K]
  at::Tensor v;      ///< [B, T, Hkv, V]
  at::Tensor g;      ///< [B, T, Hkv, K] log-decay, <= 0; any magnitude, -infinity included
  at::Tensor state;  ///< [B, Hkv, K, V] before the first token; undefined = zeros
};
struct ScanOutputs {
  at::Tensor o;      ///< [B, T, H, V]
  at::Tensor state;  ///< [B, Hkv, K, V] after the last token
};

/// How to compute a scan. All are differentiable in every input and agree to rounding.
enum class ScanMethod {
  kAuto,       ///< the fastest that runs these inputs where they are
  kReference,  ///< token by token: the definition
  kChunked,    ///< in chunks by matrix products, any device
  kFused       ///< one pass in compiled code, CPU
};
/// Throws Error if shapes or types disagree, or if the method named cannot run them.
ScanOutputs diagonal_scan(const ScanInputs& in, ScanMethod method = ScanMethod::kAuto);

/// One gated structure: how the projections of a pretrained layer become the inputs of a scan.
struct Recurrence {
  const char* name;  ///< "gla"
  /// q [B, T, H, D], k and v [B, T, Hkv, D] as projected, before RoPE -> inputs of the scan, without a state.
  ScanInputs (*gate)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const LigerConfig& config);
};

/// All structures, for messages and tests.
const std::vector<const Recurrence*>& recurrences();
/// Throws Error(kUsage) naming those there are.
const Recurrence& find_recurrence(const std::string& name);

}  // namespace liger
