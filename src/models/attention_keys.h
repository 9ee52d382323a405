#pragma once

#include "liger/core/model_config.h"
#include "models/config_reader.h"

namespace liger {

/// What config.json says of attention beyond its sizes and biases: RoPE, windows, softcaps and the scale of scores. The
/// sizes and the recursion are known already.
void read_attention(const ConfigReader& reader, ModelConfig& config);
/// The way back, in the spellings of transformers 4 and 5.
void write_attention(const ModelConfig& config, OrderedJson& out);

}  // namespace liger
