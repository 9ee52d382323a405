#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "liger/core/structure.h"

namespace liger {

/// Inputs of a gated linear recurrence with one decay per key channel:
///   S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,   o_t = q_t^T S_t
/// or, where b is given, of its delta rule: with S' = diag(exp(g_t)) S_{t-1},
///   S_t = S' + b_t k_t (v_t - S'^T k_t)^T,   o_t = q_t^T S_t.
/// Query heads h share the state of key/value head h / (H / Hkv).
struct ScanInputs {
  at::Tensor q;      ///< [B, T, H, K]   float32 or float64, like all of them
  at::Tensor k;      ///< [B, T, Hkv, K]
  at::Tensor v;      ///< [B, T, Hkv, V]
  at::Tensor g;      ///< [B, T, Hkv, K] log-decay, <= 0; any magnitude, -infinity included
  at::Tensor b;      ///< [B, T, Hkv] strength of the delta rule; undefined = no delta rule
  at::Tensor state;  ///< [B, Hkv, K, V] before the first token; undefined = zeros
};
struct ScanOutputs {
  at::Tensor o;      ///< [B, T, H, V]
  at::Tensor state;  ///< [B, Hkv, K, V] after the last token
};

/// How to compute a scan. All agree to rounding and are differentiable in every input; kFused once, the others as often
/// as asked.
enum class ScanMethod {
  kAuto,       ///< the fastest that runs these inputs where they are
  kReference,  ///< token by token: the definition
  kChunked,    ///< in chunks by matrix products, any device; not the delta rule
  kFused       ///< in compiled code, CPU
};
/// Throws Error if shapes or types disagree, or if the method named cannot run them.
ScanOutputs gated_scan(const ScanInputs& in, ScanMethod method = ScanMethod::kAuto);

/// A structure as one layer of a model uses it.
struct LayerRecurrence {
  const Structure* structure = nullptr;
  double gate_divisor = 16.0;     ///< where the structure uses one
  int64_t layer = 0, layers = 1;  ///< for decays that depend on the layer

  double divisor() const { return structure->uses_divisor ? gate_divisor : 1.0; }
};

/// What a layer's recurrence reads, float32 or float64.
struct RecurrenceInputs {
  at::Tensor q, k, v;              ///< [B, T, H, D], [B, T, Hkv, D] twice; features are made of q and k
  std::vector<at::Tensor> states;  ///< before the first token, as in RecurrenceOutputs; empty = zeros
  /// [B, T, Hkv, D], what decay and strength come from; undefined = k. For a layer of the paper k is the projected key
  /// before RoPE, and so is this.
  at::Tensor gate = {};
  at::Tensor log_gate = {};  ///< [Hkv], log-decays are multiplied by exp of it; undefined = zeros
  at::Tensor present = {};   ///< [T] bool: only these keys and values enter the state; undefined = all
};
struct RecurrenceOutputs {
  at::Tensor o;                    ///< [B, T, H, D]
  std::vector<at::Tensor> states;  ///< [B, Hkv, rows, columns] each, as state_shapes() says
  at::Tensor mass;                 ///< [B, T, H], q'_t^T n_t of a structure that normalizes (Normalizer)
};
/// How recurrence() runs a scan.
using ScanFunction = std::function<ScanOutputs(const ScanInputs& in)>;
/// The definition of a structure, any device. Scans without the delta rule go by `method`, everything else token by
/// token. With Normalizer::kShared o is that of kOwn: what it is worth beside the window, the caller weighs by `mass`.
RecurrenceOutputs recurrence(const LayerRecurrence& layer, const RecurrenceInputs& in,
                             ScanMethod method = ScanMethod::kReference);
/// The same with any scan, of structures that are one (is_one_scan()). What a scan makes of the first state it is
/// given, and of sequences one after the other, is its own matter.
RecurrenceOutputs recurrence(const LayerRecurrence& layer, const RecurrenceInputs& in, const ScanFunction& scan);
bool is_one_scan(const Structure& structure);

}  // namespace liger
