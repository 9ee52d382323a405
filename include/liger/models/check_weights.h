#pragma once

#include <string>

#include "liger/core/model_config.h"
#include "liger/io/safetensors.h"

namespace liger {

/// F64, F32, BF16 or F16: what a weight may be stored as.
bool is_weight_dtype(Dtype dtype);
/// True for what old checkpoints carry although it follows from config.json ("...rotary_emb.inv_freq", GPT-NeoX's
/// causal mask "...attention.bias"): ignored.
bool is_derived_tensor(const std::string& name);

/// Compares the weights of a folder with what `config` asks for. Throws Error(kBadInput) that lists every missing,
/// extra, misshapen or non-floating tensor in one line, layers that agree taken together:
///   "DIR: weights do not fit config.json: missing model.layers.{0-3,7}.self_attn.k_proj.weight [64, 128]; ..."
/// A stored head of a tied model must equal the embedding. Warns of what unsound_weights() finds.
void check_weights(const WeightFiles& files, const ModelConfig& config, const std::string& source);

/// Tensors that hold nothing but NaN, and matrices that hold one value only, as of a save that failed: "2 tensors hold
/// no numbers (model.norm.weight, ...)"; "" if there are none. Reads no more than it must.
std::string unsound_weights(const WeightFiles& files);

}  // namespace liger
