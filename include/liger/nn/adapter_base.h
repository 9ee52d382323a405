#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "liger/core/model_config.h"
#include "liger/io/json.h"

namespace liger {

/// Beside PEFT's two files of an adapter: which model it was trained over. Not in adapter_config.json, as PEFT warns of
/// keys it does not know, and older versions refuse them.
inline constexpr const char* kAdapterBaseFile = "liger_base.json";

/// What that file says of a model folder run with these Liger layers (nothing: softmax attention). Weights are told
/// apart by the first 4 KiB of every tensor: milliseconds, and the same however they are sharded.
OrderedJson adapter_base(const std::filesystem::path& model, const std::optional<LigerConfig>& liger);

/// What speaks against the adapter in folder `adapter` over that model although its shapes fit: that it was trained
/// over another one, or over other attention. Empty if nothing does, or if the folder does not say.
std::string other_base(const std::filesystem::path& adapter, const std::filesystem::path& model,
                       const std::optional<LigerConfig>& liger);

}  // namespace liger
