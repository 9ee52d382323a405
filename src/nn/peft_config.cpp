#include <algorithm>
#include <cmath>

#include "liger/error.h"
#include "liger/nn/lora.h"

namespace liger {
namespace {

// Options of PEFT that change what an adapter computes and that are not run here: anything but these values is refused.
const Json kMustBe = {
    {"bias", "none"},           {"fan_in_fan_out", false},      {"use_dora", false},
    {"lora_bias", false},       {"rank_pattern", Json::object()}, {"alpha_pattern", Json::object()},
    {"modules_to_save", nullptr}, {"layer_replication", nullptr}, {"layers_to_transform", nullptr},
    {"layers_pattern", nullptr}, {"exclude_modules", nullptr},  {"trainable_token_indices", nullptr},
    {"target_parameters", nullptr}, {"use_qalora", false},      {"use_bdlora", nullptr},
    {"alora_invocation_tokens", nullptr}};

bool off(const Json& value, const Json& neutral) {
  return value.is_null() || value == neutral || ((value.is_object() || value.is_array()) && value.empty()) ||
         (value.is_boolean() && !value.get<bool>());
}

}  // namespace

LoraConfig LoraConfig::from_peft_json(const Json& json, const std::string& source) {
  LIGER_CHECK(json.is_object(), source, ": expected an object, got ", json.type_name());
  const auto expect = [&](bool good, const char* key, const char* what) {
    LIGER_CHECK(good, source, ": '", key, "': expected ", what, ", got ",
                json.contains(key) ? json[key].dump() : "nothing");
  };
  expect(json.value("peft_type", Json()) == "LORA", "peft_type", "\"LORA\"");
  for (const auto& [key, neutral] : kMustBe.items())
    LIGER_CHECK(!json.contains(key) || off(json[key], neutral), source, ": '", key, "' = ", json[key].dump(),
                " is not supported");
  LoraConfig config;
  const auto number = [&](const char* key, double fallback) {
    if (!json.contains(key)) return fallback;
    expect(json[key].is_number() && std::isfinite(json[key].get<double>()), key, "a number");
    return json[key].get<double>();
  };
  const double r = number("r", 8);
  expect(r >= 1 && r <= 65536 && r == std::floor(r), "r", "a whole number from 1 to 65536");
  config.r = static_cast<int64_t>(r);
  config.alpha = number("lora_alpha", 8);
  config.dropout = number("lora_dropout", 0);
  expect(config.dropout >= 0 && config.dropout < 1, "lora_dropout", "a share from 0 to below 1");
  config.rslora = json.contains("use_rslora") && json["use_rslora"] == true;
  const Json targets = json.value("target_modules", Json());
  expect(targets.is_array() && !targets.empty(), "target_modules", "a list of module names");
  config.targets.clear();
  for (const Json& target : targets) {
    expect(target.is_string(), "target_modules", "a list of module names");
    config.targets.push_back(target.get<std::string>());
  }
  if (json.contains("base_model_name_or_path") && json["base_model_name_or_path"].is_string())
    config.base_model_name_or_path = json["base_model_name_or_path"].get<std::string>();
  return config;
}

OrderedJson LoraConfig::to_peft_json() const {
  std::vector<std::string> sorted = targets;
  std::sort(sorted.begin(), sorted.end());
  OrderedJson out = {{"base_model_name_or_path", base_model_name_or_path},
                     {"bias", "none"},
                     {"inference_mode", true},
                     {"lora_alpha", alpha},
                     {"lora_dropout", dropout},
                     {"peft_type", "LORA"},
                     {"r", r},
                     {"target_modules", sorted},
                     {"task_type", "CAUSAL_LM"}};
  if (rslora) out["use_rslora"] = true;
  if (alpha == std::floor(alpha)) out["lora_alpha"] = static_cast<int64_t>(alpha);
  return out;
}

}  // namespace liger
