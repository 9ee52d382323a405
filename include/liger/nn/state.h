#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace liger {

class CausalLM;

/// What one attention layer remembers of S sequences.
struct LayerState {
  /// The recurrence's own states, [S, Hkv, rows, columns] each (state_shapes()), float32 (float64 in a float64 model).
  std::vector<at::Tensor> recurrent;
  /// Keys (rotated) and values that may still be seen. Softmax attention: all of them, [S, capacity, Hkv, D] in the
  /// model's dtype, position p at p. Liger: [S, Hkv, window + sinks, D] in the recurrent states' type, position p in
  /// slot p % window, and again in slot window + p where p < sinks.
  at::Tensor keys, values;
  /// Keys as projected in the slots of `keys`, of a layer whose recurrence reads tokens as they leave the window.
  at::Tensor raw_keys;
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

/// One text as far as a model has read it.
struct Conversation {
  DecodingState state;          ///< of one sequence
  std::optional<int64_t> next;  ///< the token that comes next and has not been read yet
};

/// A conversation as a safetensors file, written atomically: layers.N.recurrent.I, layers.N.keys, layers.N.values,
/// layers.N.raw_keys, seen, next, and in the metadata a fingerprint of the model. A Liger model's is of the same size
/// after any text.
void save_conversation(const std::filesystem::path& file, const Conversation& conversation, const CausalLM& model);
/// Throws Error(kBadInput) for a file that is none, is damaged, or comes from another model, adapter or dtype.
Conversation load_conversation(const std::filesystem::path& file, const CausalLM& model);

}  // namespace liger
