#pragma once

#include <string_view>

#include "liger/core/model_config.h"
#include "liger/io/safetensors.h"

namespace liger {

/// F64, F32, BF16 or F16: what a weight may be stored as.
bool is_weight_dtype(Dtype dtype);

/// True for what old checkpoints carry although it follows from config.json ("...rotary_emb.inv_freq").
bool is_derived_tensor(std::string_view name);

/// Compares a folder's weights with what its config.json calls for. Throws Error(kBadInput) that lists every missing,
/// extra and misshapen tensor and every one that holds no floating-point numbers, layers that agree taken together:
///   "DIR: weights do not fit config.json: missing model.layers.{0-3,7}.self_attn.k_proj.weight [64, 128]; ..."
/// A tied model may store "lm_head.weight" if it equals the embedding, which is then read through and compared.
void check_weights(const ModelConfig& config, const WeightFiles& weights, const std::string& where);

}  // namespace liger
