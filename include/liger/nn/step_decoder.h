#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>

#include "liger/nn/state.h"

namespace liger {

class CausalLM;

/// Decodes token by token on the CPU, in compiled code from the ids to the logits: weights are read once a token where
/// they lie, activations are float32, and nothing is allocated but the keys and values that softmax layers add to a
/// state. Whatever CausalLM::hidden_states() leaves in a state can be continued here, and the other way round.
class StepDecoder {
 public:
  /// At most this many sequences.
  static constexpr int64_t kMaxSequences = 4;
  /// Whether this model can be decoded so: on the CPU, in float32 or bfloat16, unless its backend is torch or its
  /// layers have no compiled code (LigerConfig). The rest needs hidden_states().
  static bool supports(const CausalLM& model);

  /// Keeps the model's tensors; those may not be changed while it is in use. Throws Error if it does not support the
  /// model, or for a number of sequences that is not 1 .. kMaxSequences.
  StepDecoder(const CausalLM& model, int64_t sequences);
  ~StepDecoder();

  /// Reads one token of each sequence, `ids` [S], and advances `state`: an empty one starts the sequences. Returns the
  /// logits of the next tokens, [S, vocab_size] float32, which the next call overwrites.
  const at::Tensor& step(std::span<const int64_t> ids, DecodingState& state);

 private:
  struct Implementation;
  std::unique_ptr<Implementation> it_;
};

}  // namespace liger
