#pragma once

#include "liger/models/family.h"

namespace liger::test {

/// Makes it a model of another family, with what goes along; call it when the sizes are set. Windows are short.
inline void become(ModelConfig& config, const char* name) {
  const Family& family = *find_family(name);
  config.family = &family;
  config.hidden_act = family.hidden_act;
  config.parallel_residual = family.parallel_residual;
  config.attention_bias = family.biases || family.input_biases;
  config.mlp_bias = family.biases;
  if (family.fused_attention()) config.num_key_value_heads = config.num_attention_heads;
  config.rotary_dim = family.rotary_share == 1 ? 0 : config.head_dim / 2;
  config.query_pre_attn_scalar = family.query_pre_attn_scalar == 0 ? 0 : 5;
  config.attention_softcap = family.attention_softcap_key ? 3 : 0;
  config.logit_softcap = family.logit_softcap_key ? 4 : 0;
  config.rope.theta = family.rope_theta;
  config.local_rope.reset();
  if (family.local_rope_theta != 0) config.local_rope = RopeConfig{.theta = family.local_rope_theta};
  config.sliding_window = family.windows == Windows::kNone ? 0 : 7;
  config.sliding_layers.clear();
  if (family.windows == Windows::kNone) return;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    config.sliding_layers.push_back(family.windows == Windows::kAll ||
                                    (i % 2 == 0) != (family.windows == Windows::kUpper));
}

}  // namespace liger::test
