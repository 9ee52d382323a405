#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "liger/core/model_config.h"

namespace liger {

/// y = x / sqrt(mean(x^2) + eps) * w over the last dimension, computed in float32 (float64 for float64 x).
///   x [..., D], weight [D] -> [..., D] in x's dtype.
/// `adds_one`: Gemma's form, multiplied by (1 + w) before the cast; otherwise cast first, then times w, as Llama does.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, bool adds_one);

/// activation(gates) * ups, [N, I] each, of one dtype; "silu", "gelu" (exact) or "gelu_pytorch_tanh", computed in
/// float32 (float64 for float64). Throws Error on another name. Differentiable once on the CPU, as rms_norm is; both
/// keep their inputs for that and nothing else.
at::Tensor gated_activation(const std::string& name, const at::Tensor& gates, const at::Tensor& ups);

/// activation(x), without a gate, of the same names; computed in float32 (float64 for float64).
at::Tensor activation(const std::string& name, const at::Tensor& x);

/// Cosines and sines of every position's angles, [N, R / 2] each, float32, for the R channels of a head that turn.
struct Rotation {
  at::Tensor cos, sin;
};
/// Inverse frequencies [R / 2] float32: theta^(-2i/R), scaled as `rope` says.
at::Tensor rope_frequencies(const RopeConfig& rope, int64_t rotated_channels, at::Device device);
Rotation rotation(const at::Tensor& frequencies, const at::Tensor& positions);
/// Rotates the halves of the first R channels of each head, (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), and leaves
/// the others as they are, x [N, H, D]. Angles and products are float32 whatever the dtype of x.
at::Tensor rotate(const at::Tensor& x, const Rotation& rotation);

/// c tanh(x / c), x itself for c = 0.
at::Tensor softcap(const at::Tensor& x, double c);

/// What a softmax does not see, and how large its scores may become.
struct AttentionLimits {
  int64_t window = 0;  ///< the last keys that a query sees, its own included; 0 = all
  double softcap = 0;  ///< of scores
};
/// Causal softmax attention of right-padded rows, scale D^-1/2, query heads h reading key/value head h / (H / Hkv).
///   q [S, T, H, D], k and v [S, L, Hkv, D] -> [S, T, H, D].
/// Query t of row s sees keys 0 .. seen[s] + t, or the last of them; `seen` [S] int64, undefined = zeros (then L = T).
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& seen = {},
                            const AttentionLimits& limits = {});

/// The keys and values a window branch may see beyond the ones given.
struct WindowContext {
  at::Tensor keys, values;            ///< [S, window - 1, Hkv, D], the newest last; undefined = none
  at::Tensor sink_keys, sink_values;  ///< [S, sinks, Hkv, D], positions 0 .. sinks-1; undefined = none
  at::Tensor seen;                    ///< [S] int64: tokens before the first query; undefined = zeros
};
/// Softmax attention over the last `window` keys, the query's own included, and the `sinks` first of the sequence
/// (arXiv 2309.17453). Scores, softmax and sums in float32. Cost is linear in T.
///   q [S, T, H, D], k and v [S, T, Hkv, D] -> [S, T, H, D] float32 (float64 for float64 q).
/// With `log_sum` it becomes the logarithm of each query's sum of exponentials, [S, T, H]. `cap` as AttentionLimits'.
at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window,
                            const WindowContext& context, at::Tensor* log_sum = nullptr, double cap = 0);

}  // namespace liger
