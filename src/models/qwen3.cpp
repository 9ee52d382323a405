#include "models/families.h"

namespace liger {

const Family kQwen3 = {
    .model_type = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .hidden_act = "silu",
    .query_key_norms = true,
    .head_dim = 128,
    .windows = Windows::kUpper,
};

}  // namespace liger
