#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "liger/nn/state.h"

namespace liger {

class CausalLM;

/// Tokens of a prompt read at once, where nobody says otherwise: bounds memory.
inline constexpr int64_t kPrefillChunk = 2048;

/// Advances the state of one sequence over `ids`, at least one, `chunk` of them at once, and returns the logits after
/// the last, [1, vocab_size]. Throws Error(kCancelled) after a signal.
at::Tensor prefill(CausalLM& model, std::span<const int64_t> ids, int64_t chunk, DecodingState& state);

}  // namespace liger
