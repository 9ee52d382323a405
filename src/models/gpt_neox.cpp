#include "models/families.h"

namespace liger {

// GPT-NeoX, Pythia.
const Family kGptNeoX = {
    .model_type = "gpt_neox",
    .architecture = "GPTNeoXForCausalLM",
    .layer_norm = true,
    .hidden_act = "gelu",
    .norm_eps_key = "layer_norm_eps",
    .norm_eps = 1e-5,
    .biases = true,
    .parallel_residual = true,
    .rotary_share = 0.25,
    .model = "gpt_neox",
    .embedding = "embed_in",
    .final_norm = "final_layer_norm",
    .head = "embed_out",
    .attention = "attention",
    .attention_inputs = {"query_key_value"},
    .attention_output = "dense",
    .mlp_inputs = {"dense_h_to_4h"},
    .mlp_output = "dense_4h_to_h",
};

}  // namespace liger
