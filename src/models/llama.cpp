#include "models/families.h"

namespace liger {

const Family kLlama = {
    .model_type = "llama",
    .architecture = "LlamaForCausalLM",
    .hidden_act = "silu",
};

}  // namespace liger
