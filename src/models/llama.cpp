#include "models/families.h"

namespace liger {

const Family kLlama = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .norm_adds_one = false,
    .scales_embeddings = false,
    .tied_by_default = false,
    .hidden_act = "silu",
    .ignores_hidden_act = false,
    .rms_norm_eps = 1e-6,
};

}  // namespace liger
