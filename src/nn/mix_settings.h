#pragma once

#include <map>
#include <string>
#include <vector>

#include "liger/core/model_config.h"
#include "nn/fused_mix.h"

namespace liger {

/// What config.json makes of a layer that is not softmax attention. A branch of share zero is left out.
MixSettings mix_settings(const ModelConfig& config, int64_t layer);

/// The submodule of a linearized layer that holds what it has beyond its projections: the numbers of its heads as
/// "weight", and what LigerConfig::has_new_parameters() adds.
inline constexpr const char* kMixerModule = "mixer";
/// Names and shapes of these.
std::map<std::string, std::vector<int64_t>> mixer_parameters(const ModelConfig& config);

/// Its numbers of heads, [kHeadScalars, H] float64 on the CPU: config.liger->heads, and the defaults of what is not
/// there.
at::Tensor head_scalars(const ModelConfig& config, int64_t layer);
/// The way back: all that have a meaning become a part of `liger`, which is that of `model`. Call it for every layer
/// that is not softmax attention.
void set_head_scalars(LigerConfig& liger, const ModelConfig& model, int64_t layer, const at::Tensor& scalars);

/// Rings of zeros for S sequences, as far as the settings want them and there are none yet.
void make_rings(const MixSettings& settings, int64_t S, int64_t Hkv, int64_t D, const at::TensorOptions& options,
                LayerState& state);

}  // namespace liger
