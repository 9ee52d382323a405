#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "liger/core/model_config.h"

namespace liger {

/// Changes whole rows of a tensor, from row `first` on, in float32.
using RowEdit = std::function<void(int64_t first, std::span<float> rows)>;

/// What a PEFT adapter does to the weights of a model, by tensor name: W + s B A, with DoRA's magnitudes as norms of
/// the rows. Throws Error(kBadInput) if the adapter does not fit (read_adapter). Empty for an empty `adapter`.
std::map<std::string, RowEdit> merge_edits(const std::filesystem::path& adapter, const ModelConfig& model);

}  // namespace liger
