#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "liger/core/model_config.h"

namespace liger {

/// Changes whole rows of a tensor, from row `first` on, in float32.
using RowEdit = std::function<void(int64_t first, std::span<float> rows)>;

/// What a PEFT adapter does to a model.
struct Merge {
  std::map<std::string, RowEdit>
      rows;  ///< of weights by name: W + s B A, with DoRA's magnitudes as norms of the rows; and norms
  std::optional<LigerConfig> liger;  ///< the model's, with the numbers of heads that the adapter has; if it has any
};
/// Throws Error(kBadInput) if the adapter does not fit (read_adapter). Nothing for an empty `adapter`.
Merge read_merge(const std::filesystem::path& adapter, const ModelConfig& model);

}  // namespace liger
