#pragma once

#include "liger/core/model_config.h"
#include "liger/models/family.h"

namespace liger::benchmarks {

/// The shape of stories15M, or of stories110M, as a linearized model or as it was.
inline ModelConfig shape_of(bool large, bool liger) {
  ModelConfig c;
  c.family = find_family("llama");
  c.vocab_size = 32000;
  c.hidden_size = large ? 768 : 288;
  c.intermediate_size = large ? 2048 : 768;
  c.num_hidden_layers = large ? 12 : 6;
  c.num_attention_heads = c.num_key_value_heads = large ? 12 : 6;
  c.head_dim = c.hidden_size / c.num_attention_heads;
  c.max_position_embeddings = 65536;
  c.hidden_act = "silu";
  c.tie_word_embeddings = true;
  if (liger) c.liger = LigerConfig{};
  return c;
}

}  // namespace liger::benchmarks
