#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "liger/io/safetensors.h"

namespace liger {

/// A view of a tensor in a file, no byte copied: the tensor keeps the mapping alive, and writing to it changes this
/// process's pages, never the file.
at::Tensor map_tensor(const SafetensorsFile& file, const TensorInfo& info);

/// Writes tensors to one .safetensors file, atomically. They are made contiguous and brought to the CPU one by one.
void save_tensors(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
/// All tensors of a file, mapped.
std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& file);

}  // namespace liger
