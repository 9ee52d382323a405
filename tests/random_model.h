#pragma once

#include <ATen/Context.h>

#include <memory>
#include <optional>

#include "family_traits.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"

namespace liger::test {

/// Two layers of grouped heads over `vocab` tokens. Weights are large enough that every token matters.
inline ModelConfig random_config(int64_t vocab, std::optional<LigerConfig> liger = {}) {
  ModelConfig config;
  config.family = find_family("llama");
  config.vocab_size = vocab;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.max_position_embeddings = 64;
  config.initializer_range = 0.3;
  config.hidden_act = "silu";
  config.bos_token_id = 0;
  config.eos_token_ids = {1};
  config.liger = std::move(liger);
  return config;
}

/// A Liger configuration whose window is soon left behind.
inline LigerConfig short_window() {
  LigerConfig liger;
  liger.window = 5;
  return liger;
}

/// What calibration takes for gated retention, with such a window.
inline LigerConfig recommended() {
  LigerConfig liger{.recurrence = "gated-retention", .window = 5, .sinks = 2};
  liger.features = FeatureMap::kExpPair;
  liger.normalizer = Normalizer::kShared;
  liger.rope_features = liger.beyond_window = true;
  return liger;
}

inline std::shared_ptr<CausalLM> random_model(const ModelConfig& config, uint64_t seed = 0,
                                              at::ScalarType dtype = at::kFloat) {
  at::manual_seed(seed);
  auto model = std::make_shared<CausalLM>(config, at::TensorOptions(dtype));
  model->eval();
  return model;
}

}  // namespace liger::test
