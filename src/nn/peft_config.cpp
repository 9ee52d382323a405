#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "liger/error.h"
#include "liger/nn/lora_config.h"

namespace liger {
namespace {

constexpr int64_t kLargestRank = 65536;
constexpr const char* kMixer = "mixer";
const std::set<std::string> kNorms = {"input_layernorm", "post_attention_layernorm"};
const std::set<std::string> kMoreNorms = {"k_norm", "post_feedforward_layernorm", "pre_feedforward_layernorm",
                                          "q_norm"};  // of some families

// Keys of PEFT 0.21 that are read here, and those that change nothing of what a saved adapter computes: what they say
// is not looked at. Every other key must be off, so that an option of tomorrow's PEFT is not passed over in silence.
const std::set<std::string_view> kRead = {"peft_type",           "r",
                                          "lora_alpha",          "lora_dropout",
                                          "target_modules",      "exclude_modules",
                                          "layers_to_transform", "layers_pattern",
                                          "rank_pattern",        "alpha_pattern",
                                          "use_rslora",          "use_dora",
                                          "init_lora_weights",   "base_model_name_or_path",
                                          "modules_to_save",     "layer_replication"};
const std::set<std::string_view> kOfNoEffect = {
    "task_type",      "inference_mode",    "peft_version", "revision",       "auto_mapping",
    "megatron_core",  "eva_config",        "corda_config", "lora_ga_config", "ensure_weight_tying",
    "runtime_config", "qalora_group_size", "loftq_config"};
// Ways to begin that leave the base model's weights alone. Others (pissa, olora, corda, loftq ...) fit an adapter to
// changed weights, which the base model's folder does not hold.
const std::set<std::string_view> kInitializations = {"gaussian", "eva", "orthogonal"};

bool is_off(const std::string& key, const OrderedJson& value) {
  if (key == "bias" && (value == "none" || value == "lora_only")) return true;
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

/// The keys of one adapter_config.json, with errors that name the file and the key.
class Keys {
 public:
  Keys(const OrderedJson& json, const std::string& source) : json_(json), source_(source) {
    LIGER_CHECK(json.is_object(), source, ": expected an object, got ", json.type_name());
  }

  /// null if it is not there.
  OrderedJson get(const char* key) const { return json_.contains(key) ? json_[key] : OrderedJson(); }

  void expect(bool good, const std::string& key, const char* what) const {
    LIGER_CHECK(good, source_, ": '", key, "': expected ", what, ", got ",
                json_.contains(key) ? json_[key].dump() : "nothing");
  }

  double number(const char* key, double fallback) const {
    const OrderedJson value = get(key);
    if (!json_.contains(key)) return fallback;
    expect(is_finite(value), key, "a number");
    return value.get<double>();
  }

  bool flag(const char* key) const {
    const OrderedJson value = get(key);
    expect(value.is_null() || value.is_boolean(), key, "true or false");
    return value == true;
  }

  ModuleSelector modules(const char* key) const {
    ModuleSelector selector;
    const OrderedJson value = get(key);
    if (value.is_string()) {
      selector.regex = value.get<std::string>();
      expect(!selector.regex.empty(), key, "a list of module names or a regular expression");
      return selector;
    }
    expect(value.is_null() || value.is_array(), key, "a list of module names or a regular expression");
    for (const OrderedJson& name : value) {
      expect(name.is_string() && name != "", key, "a list of module names");
      selector.names.push_back(name.get<std::string>());
    }
    return selector;
  }

  std::set<std::string> names(const char* key) const {
    const OrderedJson value = get(key);
    expect(value.is_null() || value.is_array(), key, "a list of module names");
    std::set<std::string> out;
    for (const OrderedJson& name : value) {
      expect(name.is_string(), key, "a list of module names");
      out.insert(name.get<std::string>());
    }
    return out;
  }

  std::vector<std::pair<int64_t, int64_t>> ranges(const char* key) const {
    const char* const what = "a list of ranges [first, last] of layers";
    constexpr int64_t kMostLayers = 4096;
    const OrderedJson value = get(key);
    expect(value.is_null() || value.is_array(), key, what);
    std::vector<std::pair<int64_t, int64_t>> out;
    for (const OrderedJson& range : value) {
      const bool pair =
          range.is_array() && range.size() == 2 && range[0].is_number_integer() && range[1].is_number_integer();
      expect(pair && range[0] >= 0 && range[0] < range[1] && range[1] <= kMostLayers, key, what);
      out.emplace_back(range[0].get<int64_t>(), range[1].get<int64_t>());
    }
    return out;
  }

  std::vector<int64_t> layers() const {
    const char* const key = "layers_to_transform";
    const OrderedJson value = get(key);
    const auto is_layer = [](const OrderedJson& x) { return x.is_number_integer() && x >= 0 && x < 1'000'000; };
    if (is_layer(value)) return {value.get<int64_t>()};
    expect(value.is_null() || (value.is_array() && std::all_of(value.begin(), value.end(), is_layer)), key,
           "a list of layers counted from 0");
    return value.is_null() ? std::vector<int64_t>() : value.get<std::vector<int64_t>>();
  }

  template <typename Number, typename Holds>
  std::vector<std::pair<std::string, Number>> pattern(const char* key, const char* what, const Holds& holds) const {
    std::vector<std::pair<std::string, Number>> out;
    const OrderedJson value = get(key);
    expect(value.is_null() || value.is_object(), key, what);
    for (const auto& item : value.items()) {
      expect(holds(item.value()), key, what);
      out.emplace_back(item.key(), item.value().template get<Number>());
    }
    return out;
  }

  void check_the_rest() const {
    for (const auto& item : json_.items()) {
      if (kRead.contains(item.key()) || kOfNoEffect.contains(item.key()) || is_off(item.key(), item.value())) continue;
      fail(ErrorCode::kBadInput, source_, ": '", item.key(), "' = ", item.value().dump(),
           " is not supported; train without it, or merge the adapter with PEFT");
    }
  }

  static bool is_finite(const OrderedJson& value) { return value.is_number() && std::isfinite(value.get<double>()); }
  static bool is_rank(const OrderedJson& value) {
    if (!is_finite(value)) return false;
    const double r = value.get<double>();
    return r >= 1 && r <= static_cast<double>(kLargestRank) && r == std::floor(r);
  }

 private:
  const OrderedJson& json_;
  const std::string& source_;
};

void check_layer_keys(const Keys& keys, const LoraConfig& config) {
  const OrderedJson pattern = keys.get("layers_pattern");
  const bool known = pattern.is_null() || pattern == "" || pattern == OrderedJson::array() || pattern == "layers" ||
                     pattern == OrderedJson::array({"layers"});
  keys.expect(known, "layers_pattern", "\"layers\", as these models call theirs");
  const bool says_where = !(pattern.is_null() || pattern.empty() || pattern == "");
  keys.expect(!says_where || !config.layers.empty(), "layers_to_transform", "layers, as there is a layers_pattern");
  keys.expect(config.layers.empty() || config.targets.regex.empty(), "layers_to_transform",
              "nothing, as target_modules is a regular expression");
}

/// 8 rather than 8.0, as PEFT writes a whole number.
OrderedJson shortest(double x) {
  const bool whole = x == std::floor(x) && std::abs(x) < 1e15;
  return whole ? OrderedJson(static_cast<int64_t>(x)) : OrderedJson(x);
}

OrderedJson to_json(const ModuleSelector& selector) {
  if (!selector.regex.empty()) return selector.regex;
  std::vector<std::string> sorted = selector.names;
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

}  // namespace

LoraConfig LoraConfig::from_peft_json(const OrderedJson& json, const std::string& source) {
  const Keys keys(json, source);
  keys.expect(keys.get("peft_type") == "LORA", "peft_type", "\"LORA\"");
  keys.check_the_rest();
  const OrderedJson init = keys.get("init_lora_weights");
  const bool keeps_base = init.is_string() && kInitializations.contains(init.get<std::string>());
  keys.expect(init.is_null() || init.is_boolean() || keeps_base, "init_lora_weights",
              "true, false, \"gaussian\", \"eva\" or \"orthogonal\" (others change the base model)");
  LoraConfig config;
  keys.expect(!json.contains("r") || Keys::is_rank(keys.get("r")), "r", "a whole number from 1 to 65536");
  config.r = static_cast<int64_t>(keys.number("r", 8));
  config.alpha = keys.number("lora_alpha", 8);
  config.dropout = keys.number("lora_dropout", 0);
  keys.expect(config.dropout >= 0 && config.dropout < 1, "lora_dropout", "a share from 0 to below 1");
  config.targets = keys.modules("target_modules");
  keys.expect(!config.targets.empty(), "target_modules", "a list of module names or a regular expression");
  config.exclude = keys.modules("exclude_modules");
  config.layers = keys.layers();
  check_layer_keys(keys, config);
  config.rank_pattern = keys.pattern<int64_t>("rank_pattern", "a rank from 1 to 65536 for each", Keys::is_rank);
  config.alpha_pattern = keys.pattern<double>("alpha_pattern", "a number for each", Keys::is_finite);
  config.rslora = keys.flag("use_rslora");
  config.dora = keys.flag("use_dora");
  const std::set<std::string> whole = keys.names("modules_to_save");
  config.mixer = whole.contains(kMixer);
  config.norms = whole.contains(*kNorms.begin());
  std::set<std::string> known = config.norms ? kNorms : std::set<std::string>();
  if (config.mixer) known.insert(kMixer);
  for (const std::string& name : kMoreNorms)
    if (config.norms && whole.contains(name)) config.more_norms.push_back(name), known.insert(name);
  keys.expect(whole == known, "modules_to_save",
              "of \"mixer\", the numbers of a linearized layer's heads, and \"input_layernorm\" with "
              "\"post_attention_layernorm\" and other norms");
  config.layer_replication = keys.ranges("layer_replication");
  config.biases = keys.get("bias") == "lora_only";
  if (const OrderedJson base = keys.get("base_model_name_or_path"); base.is_string())
    config.base_model_name_or_path = base.get<std::string>();
  return config;
}

OrderedJson LoraConfig::to_peft_json() const {
  OrderedJson out = {{"base_model_name_or_path", base_model_name_or_path},
                     {"bias", biases ? "lora_only" : "none"},
                     {"inference_mode", true},
                     {"lora_alpha", shortest(alpha)},
                     {"lora_dropout", dropout},
                     {"peft_type", "LORA"},
                     {"r", r},
                     {"target_modules", to_json(targets)},
                     {"task_type", "CAUSAL_LM"}};
  if (!exclude.empty()) out["exclude_modules"] = to_json(exclude);
  if (!layers.empty()) out["layers_to_transform"] = layers;
  for (const auto& [regex, rank] : rank_pattern) out["rank_pattern"][regex] = rank;
  for (const auto& [regex, value] : alpha_pattern) out["alpha_pattern"][regex] = shortest(value);
  if (rslora) out["use_rslora"] = true;
  if (dora) out["use_dora"] = true;
  std::set<std::string> whole = norms ? kNorms : std::set<std::string>();
  if (norms) whole.insert(more_norms.begin(), more_norms.end());
  if (mixer) whole.insert(kMixer);
  if (!whole.empty()) out["modules_to_save"] = whole;
  if (!layer_replication.empty()) out["layer_replication"] = layer_replication;
  return out;
}

}  // namespace liger
