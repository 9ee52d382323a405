#include "models/families.h"

namespace liger {

const Family kGemma2 = {
    .model_type = "gemma2",
    .architecture = "Gemma2ForCausalLM",
    .norm_adds_one = true,
    .scales_embeddings = true,
    .tied_by_default = true,
    .hidden_act = "gelu_pytorch_tanh",
    .hidden_act_key = "hidden_activation",
    .output_norms = true,
    .head_dim = 256,
    .windows = Windows::kAlternating,
    .window_pattern = 2,
    .query_pre_attn_scalar = 256,
    .attention_softcap_key = true,
    .logit_softcap_key = true,
    .attention_softcap = 50,
    .logit_softcap = 30,
};

}  // namespace liger
