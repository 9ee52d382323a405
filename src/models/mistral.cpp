#include "models/families.h"

namespace liger {

// Mistral 7B; the first of them with a window in all layers.
const Family kMistral = {
    .model_type = "mistral",
    .architecture = "MistralForCausalLM",
    .hidden_act = "silu",
    .windows = Windows::kAll,
};

}  // namespace liger
