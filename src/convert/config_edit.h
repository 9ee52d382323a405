#pragma once

#include <optional>
#include <string>
#include <vector>

#include "liger/core/model_config.h"
#include "liger/io/json.h"

namespace liger {

/// config.json of the linearized model: architectures and model_type as the published code knows them, our settings
/// in "liger", gsa's "pool_size", every other key in its place. Keys that only the newer spelling has are added in the
/// older one, which the published code reads; "liger" lists them as "added".
OrderedJson linearized_config(OrderedJson config, const ModelConfig& base, const LigerConfig& liger);

/// The way back: what linearized_config() changed is as it was.
OrderedJson softmax_config(OrderedJson config, const ModelConfig& linearized);

/// config.json of the tied model: of a plain one with the stored layers, for whoever does not know "recursive".
/// `tied`: as tied_config() says; `layers`: of the model, by depth. Keys are added in the older spelling here too.
OrderedJson tied_config_json(OrderedJson config, const ModelConfig& tied, const std::vector<int64_t>& layers);
/// The way back, all depths as layers.
OrderedJson untied_config_json(OrderedJson config, const ModelConfig& tied);

/// Names the dtype the weights now have, in the spellings that are there (or the older one).
void set_config_dtype(OrderedJson& config, const std::string& name);

/// One line a changed, added or removed key.
std::vector<std::string> config_changes(const OrderedJson& before, const OrderedJson& after);

/// What the published code will not do with this model: it has its settings as constants, and knows three structures
/// and Llama alone.
std::vector<std::string> compatibility_warnings(const ModelConfig& base, const LigerConfig& liger);

/// What becomes of layers that saw the last tokens only; "" if there are none among those that are linearized.
std::string window_warning(const ModelConfig& model);

}  // namespace liger
