#include "models/families.h"

namespace liger {

const Family kGemma = {
    .model_type = "gemma",
    .architecture = "GemmaForCausalLM",
    .norm_adds_one = true,
    .scales_embeddings = true,
    .tied_by_default = true,
    .hidden_act = "gelu_pytorch_tanh",
    .ignores_hidden_act = true,
};

}  // namespace liger
