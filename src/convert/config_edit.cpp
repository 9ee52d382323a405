#include "convert/config_edit.h"

#include <utility>

#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/models/structure.h"

namespace liger {
namespace {

// In "liger": the keys that add_older_spelling() wrote, which go again on the way back.
constexpr const char* kAdded = "added";

bool is_set(const OrderedJson& config, const char* key) { return config.contains(key) && !config[key].is_null(); }

// transformers 5 writes "rope_parameters" and "dtype"; earlier versions, the published code's among them, read only
// "rope_theta", "rope_scaling" and "torch_dtype", and fall back to defaults without a word.
void add_older_spelling(OrderedJson& config) {
  if (is_set(config, "dtype") && !is_set(config, "torch_dtype")) config["torch_dtype"] = config["dtype"];
  if (!is_set(config, "rope_parameters")) return;
  OrderedJson scaling = config["rope_parameters"];
  if (scaling.contains("full_attention")) {  // Gemma 3, whose sliding layers have a RoPE of their own
    const OrderedJson local = scaling.value("sliding_attention", OrderedJson::object());
    if (local.contains("rope_theta") && !is_set(config, "rope_local_base_freq"))
      config["rope_local_base_freq"] = local["rope_theta"];
    scaling = OrderedJson(scaling["full_attention"]);
  }
  if (scaling.contains("partial_rotary_factor")) {  // GPT-NeoX, whose older spelling is its own
    if (!is_set(config, "rotary_pct")) config["rotary_pct"] = scaling["partial_rotary_factor"];
    if (!is_set(config, "rotary_emb_base") && scaling.contains("rope_theta"))
      config["rotary_emb_base"] = scaling["rope_theta"];
    return;
  }
  if (scaling.contains("rope_theta")) {
    if (!is_set(config, "rope_theta")) config["rope_theta"] = scaling["rope_theta"];
    scaling.erase("rope_theta");
  }
  const bool plain = !scaling.contains("rope_type") || scaling["rope_type"] == "default";
  if (!plain && !is_set(config, "rope_scaling")) config["rope_scaling"] = std::move(scaling);
}

}  // namespace

OrderedJson linearized_config(OrderedJson config, const ModelConfig& base, const LigerConfig& liger) {
  config["architectures"] = OrderedJson::array({liger_architecture(liger.recurrence)});
  config["model_type"] = liger_model_type(liger.recurrence);
  OrderedJson added = OrderedJson::array();
  const OrderedJson before = config;
  add_older_spelling(config);
  for (const auto& [key, value] : config.items())
    if (!value.is_null() && !is_set(before, key.c_str())) added.push_back(key);
  if (liger.recurrence == "gsa") config["pool_size"] = base.head_dim;  // without it the published code has 64 slots
  OrderedJson settings = to_json(liger);
  settings["base_model_type"] = base.family->model_type;
  if (!added.empty()) settings[kAdded] = std::move(added);
  config["liger"] = std::move(settings);
  return config;
}

OrderedJson softmax_config(OrderedJson config, const ModelConfig& linearized) {
  config["architectures"] = OrderedJson::array({linearized.family->architecture});
  config["model_type"] = linearized.family->model_type;
  const OrderedJson settings = config.value("liger", OrderedJson::object());
  for (const OrderedJson& key : settings.value(kAdded, OrderedJson::array()))
    if (key.is_string()) config.erase(key.get<std::string>());
  config.erase("liger");
  if (linearized.liger->recurrence == "gsa") config.erase("pool_size");
  return config;
}

namespace {

// What newer transformers says of single layers.
constexpr const char* kLayerTypes = "layer_types";

OrderedJson layer_types(const OrderedJson& config, size_t layers) {
  const OrderedJson& types = config[kLayerTypes];
  LIGER_CHECK(types.is_array() && types.size() == layers, "config.json: '", kLayerTypes,
              "': expected a name for each of ", layers, " layers, got ", types.dump().substr(0, 80));
  return types;
}

}  // namespace

OrderedJson tied_config_json(OrderedJson config, const ModelConfig& tied, const std::vector<int64_t>& layers) {
  if (!tied.sliding_layers.empty()) {
    config[kLayerTypes] = layer_types_json(tied);  // which a pattern no longer says
  } else if (is_set(config, kLayerTypes)) {
    const OrderedJson types = layer_types(config, config["num_hidden_layers"].get<size_t>());
    OrderedJson kept = OrderedJson::array();
    for (int64_t depth = 0, slot = 0; depth < tied.num_hidden_layers; ++depth)
      if (tied.slot(depth) == slot) ++slot, kept.push_back(types.at(static_cast<size_t>(layers[depth])));
    config[kLayerTypes] = std::move(kept);
  }
  add_older_spelling(config);  // RoPE of a default theta is the last thing an older reader should take
  config["num_hidden_layers"] = tied.stored_layers();
  config["recursive"] = to_json(*tied.recursive);
  return config;
}

OrderedJson untied_config_json(OrderedJson config, const ModelConfig& tied) {
  if (!tied.sliding_layers.empty()) {
    config[kLayerTypes] = layer_types_json(tied.unrolled());
  } else if (is_set(config, kLayerTypes)) {
    const OrderedJson types = layer_types(config, static_cast<size_t>(tied.stored_layers()));
    config[kLayerTypes] = OrderedJson::array();
    for (int64_t depth = 0; depth < tied.num_hidden_layers; ++depth)
      config[kLayerTypes].push_back(types.at(static_cast<size_t>(tied.slot(depth))));
  }
  add_older_spelling(config);
  config["num_hidden_layers"] = tied.num_hidden_layers;
  config.erase("recursive");
  return config;
}

void set_config_dtype(OrderedJson& config, const std::string& name) {
  if (config.contains("dtype")) config["dtype"] = name;
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = name;
}

std::vector<std::string> config_changes(const OrderedJson& before, const OrderedJson& after) {
  const auto shown = [](OrderedJson value) {
    if (value.is_object() && value.contains("heads")) value["heads"] = "...";  // thousands of numbers
    return value.dump();
  };
  std::vector<std::string> changes;
  for (const auto& [key, value] : before.items()) {
    if (!after.contains(key)) {
      changes.push_back(cat(key, ": ", shown(value), " -> (removed)"));
    } else if (after[key] != value) {
      changes.push_back(cat(key, ": ", shown(value), " -> ", shown(after[key])));
    }
  }
  for (const auto& [key, value] : after.items()) {
    if (!before.contains(key)) changes.push_back(cat(key, ": (absent) -> ", shown(value)));
  }
  return changes;
}

std::string window_warning(const ModelConfig& model) {
  std::string layers;
  int64_t count = 0;
  for (int64_t i = 0; i < model.num_hidden_layers; ++i)
    if (model.is_sliding(i) && !model.is_softmax_layer(i)) layers += cat(count++ == 0 ? "" : ",", i);
  if (count == 0) return "";
  return cat("layers that saw the last ", model.sliding_window, " tokens only become linearized ones like the others, ",
             "whose state is of the whole text",
             count < model.num_hidden_layers ? cat("; --softmax-layers ", layers, " leaves them as they are") : "");
}

std::vector<std::string> compatibility_warnings(const ModelConfig& base, const LigerConfig& liger) {
  const Structure& structure = *find_structure(liger.recurrence);
  if (!structure.published) {
    return {cat("the published Liger code has no ", structure.name, "; only liger runs this model")};
  }
  std::vector<std::string> warnings;
  const LigerConfig published;
  std::string ignored;
  const auto compare = [&](const char* name, auto ours, auto theirs) {
    if (ours != theirs) ignored += cat(ignored.empty() ? "" : ", ", name, " ", ours, " (it uses ", theirs, ")");
  };
  compare("window", liger.window, published.window);
  compare("sinks", liger.sinks, published.sinks);
  if (liger.has_mix()) compare("mix", liger.mix, published.mix);
  if (structure.uses_divisor) compare("gate_divisor", liger.gate_divisor, published.gate_divisor);
  if (!liger.softmax_layers.empty()) {
    ignored += cat(ignored.empty() ? "" : ", ", "softmax_layers ", OrderedJson(liger.softmax_layers).dump(),
                   " (it linearizes all)");
  }
  OrderedJson beyond = to_json(liger);  // choices that the paper does not have
  for (const char* key : {"features", "rope_features", "normalizer", "state", "heads"}) {
    if (beyond.contains(key)) ignored += cat(ignored.empty() ? "" : ", ", key);
  }
  if (!ignored.empty()) {
    warnings.push_back("the published Liger code has its settings as constants and will ignore " + ignored +
                       "; only liger runs this model as configured");
  }
  const std::string type = base.family->model_type;
  if (liger.recurrence == "gla" && (type == "mistral" || type == "qwen2")) {
    warnings.push_back(cat("the published Liger code opens a ", type, " as model_type 'liger_", type,
                           "_gla' only; write that into a copy of config.json for it"));
  } else if (type != "llama") {
    warnings.push_back(cat("the published Liger code has no ", type, "; only liger runs this model correctly"));
  }
  return warnings;
}

}  // namespace liger
