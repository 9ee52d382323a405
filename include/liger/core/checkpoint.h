#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "liger/io/safetensors.h"
#include "liger/models/family.h"

namespace liger {

/// A view of a tensor in a file, no byte copied: the tensor keeps the mapping alive, and writing to it changes this
/// process's pages, never the file.
at::Tensor map_tensor(const SafetensorsFile& file, const TensorInfo& info);

/// Writes tensors to one .safetensors file, atomically. They are made contiguous and brought to the CPU one by one.
void save_tensors(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
/// All tensors of a file, mapped.
std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& file);

/// F64, F32, BF16 or F16: what a weight may be stored as.
bool is_weight_dtype(Dtype dtype);
/// True for what old checkpoints carry although it follows from config.json ("...rotary_emb.inv_freq"): ignored.
bool is_derived_tensor(const std::string& name);

/// Compares the weights of a folder with what `config` asks for. Throws Error(kBadInput) that lists every missing,
/// extra, misshapen or non-floating tensor in one line, layers that agree taken together:
///   "DIR: weights do not fit config.json: missing model.layers.{0-3,7}.self_attn.k_proj.weight [64, 128]; ..."
/// A stored lm_head.weight of a tied model must equal the embedding.
void check_weights(const WeightFiles& files, const ModelConfig& config, const std::string& source);

}  // namespace liger
