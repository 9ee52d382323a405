#include "models/families.h"

namespace liger {

// Qwen2, Qwen2.5.
const Family kQwen2 = {
    .model_type = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .hidden_act = "silu",
    .input_biases = true,
    .windows = Windows::kUpper,
};

}  // namespace liger
