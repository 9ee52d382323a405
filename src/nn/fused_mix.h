#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "liger/nn/state.h"
#include "liger/ops/ops.h"
#include "liger/recurrence/recurrence.h"

namespace liger {

/// A linearized layer's token mixer, o = a * window + b * recurrence, with a and b numbers of each head
/// (core/head_scalars.h; by default window_share and 1 - window_share).
///
/// Where the recurrence's normalizer is kShared, window and state are one softmax, as in LoLCATs (arXiv 2410.10254,
/// eq. 6): with Z = sum of exp(scores) over the window, o_w its output, d the recurrence's mass and n its sum of
/// values,
///   o = (Z o_w + e^w n) / (Z + e^w d),
/// which is the mix of both outputs with a = 1 / (1 + exp(w + log d - log Z)) and b = 1 - a.
struct MixSettings {
  LayerRecurrence recurrence;  ///< structure nullptr: window only
  int64_t window = 65;         ///< keys a query sees, its own included; 0: recurrence only
  int64_t sinks = 0;
  double window_share = 0.5;
  bool rotates_features = false;  ///< features are of rotated queries and keys; decay and strength never are
  /// The recurrence reads key and value of token t - window at token t, and no sink: state and window never hold the
  /// same token. Needs a window.
  bool beyond_window = false;
  double softcap = 0;  ///< of the window's scores, as AttentionLimits'; not in compiled code

  bool shares_normalizer() const {
    return recurrence.structure && recurrence.structure->normalizer == Normalizer::kShared;
  }
  bool rotates() const { return window > 0 || rotates_features; }
};

/// Sequences one after the other, without padding.
struct MixInputs {
  at::Tensor q, k, v;            ///< [N, H, D], [N, Hkv, D] twice, as projected: float32, float64, bfloat16 or float16
  Rotation rotation;             ///< of the N tokens; not used where nothing rotates
  std::vector<int64_t> lengths;  ///< tokens of each sequence
  /// Of the recurrence before the first tokens, [S, Hkv, rows, columns] each, float32 (float64 for float64 q);
  /// empty = zeros.
  std::vector<at::Tensor> states;
  /// Where each sequence begins, and the last ends: [S + 1] int64 on the device; undefined: made where it is needed.
  at::Tensor starts = {};
  at::Tensor scalars = {};  ///< [kHeadScalars, H] of the wide type (HeadScalar); undefined: the defaults
  // Not in compiled code.
  at::Tensor gate = {};                     ///< [N, Hkv, D], what decays are read from; undefined: k
  at::Tensor query_map = {}, key_map = {};  ///< W of learned features, [H, D, D] and [Hkv, D, D]; undefined: zeros

  bool is_compiled() const { return !gate.defined() && !query_map.defined(); }
};
struct MixOutputs {
  at::Tensor o;                    ///< as q
  std::vector<at::Tensor> states;  ///< after the last tokens
};

/// In compiled code, CPU only, float32 inside (float64 for float64 q); differentiable once, in q, k, v and states.
MixOutputs fused_mix(const MixSettings& settings, const MixInputs& in);

/// Numbers, float32 (float64 for float64 q), that it keeps for its backward pass beside q, k and v.
int64_t fused_mix_kept(const MixSettings& settings, int64_t heads, int64_t kv_heads, int64_t D,
                       const std::vector<int64_t>& lengths);

/// The same as the next part of sequences of which `past` tokens are in `state`; no gradient. `in.states` is not used.
at::Tensor fused_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                     LayerState& state);

}  // namespace liger
