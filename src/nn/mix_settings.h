#pragma once

#include "liger/core/model_config.h"
#include "nn/fused_mix.h"

namespace liger {

/// What config.json makes of a layer that is not softmax attention. A branch of share zero is left out.
MixSettings mix_settings(const ModelConfig& config, int64_t layer);

}  // namespace liger
