#include "models/families.h"

namespace liger {

// The text models of Gemma 3.
const Family kGemma3 = {
    .model_type = "gemma3_text",
    .architecture = "Gemma3ForCausalLM",
    .norm_adds_one = true,
    .scales_embeddings = true,
    .tied_by_default = true,
    .hidden_act = "gelu_pytorch_tanh",
    .hidden_act_key = "hidden_activation",
    .query_key_norms = true,
    .output_norms = true,
    .head_dim = 256,
    .windows = Windows::kAlternating,
    .window_pattern = 6,
    .window_pattern_key = true,
    .rope_theta = 1e6,
    .local_rope_theta = 1e4,
    .query_pre_attn_scalar = 256,
    .logit_softcap_key = true,
};

}  // namespace liger
