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

/// Checks the weights of a folder against what `config` asks for. Throws Error(kBadInput) with one line for every
/// missing, extra, misshapen or non-floating tensor. Rotary buffers of old files are ignored; a stored lm_head.weight
/// of a tied model must equal the embedding.
void check_weights(const WeightFiles& files, const ModelConfig& config, const std::string& source);

}  // namespace liger
