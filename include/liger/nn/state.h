#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace liger {

/// What one attention layer remembers of S sequences.
struct LayerState {
  /// The recurrence's own state(s); for GLA one [S, Hkv, K, V] float32 (float64 in a float64 model).
  std::vector<at::Tensor> recurrent;
  /// Keys (rotated) and values the softmax branch may still see, [S, capacity, Hkv, D] in the model's dtype. Softmax
  /// attention: all of them, the oldest first. Liger: the last window - 1, the newest last.
  at::Tensor keys, values;
  /// Liger with sinks: keys and values of positions 0 .. sinks - 1, [S, sinks, Hkv, D].
  at::Tensor sink_keys, sink_values;
};

/// What a model remembers of S sequences between calls; start from a default-constructed one. Its size is constant
/// in the length of the text for a Liger model, but for what softmax layers of a hybrid keep.
struct DecodingState {
  std::vector<LayerState> layers;
  std::vector<int64_t> seen;  ///< tokens read so far, per sequence

  int64_t bytes() const;
  /// The state of sequences `rows` [n] int64 (repeats allowed: forks), as a copy of its own.
  DecodingState select(const at::Tensor& rows) const;
};

}  // namespace liger
