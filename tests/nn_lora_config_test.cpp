// Which modules a LoRA configuration adapts, and what adapter_config.json may say.

#include <gtest/gtest.h>

#include <cmath>

#include "liger/error.h"
#include "liger/nn/lora_config.h"

namespace liger {
namespace {

// Two layers and an untied head.
std::vector<std::string> linears() {
  std::vector<std::string> paths = {"lm_head"};
  for (const char* layer : {"0", "1"}) {
    for (const char* name : {"mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.o_proj",
                             "self_attn.q_proj", "self_attn.v_proj"}) {
      paths.push_back(cat("model.layers.", layer, ".", name));
    }
  }
  return paths;
}

// "0.q_proj 1.q_proj": layer and name.
std::string selected(const LoraConfig& config) {
  std::string text;
  for (const LoraModule& m : lora_modules(config, linears())) {
    const std::string layer = m.path.substr(std::string("model.layers.").size(), 1);
    text += cat(text.empty() ? "" : " ", layer, ".", m.path.substr(m.path.rfind('.') + 1));
  }
  return text;
}

TEST(LoraModules, AreSelectedAsByPeft) {
  const auto by_names = [](std::vector<std::string> names) {
    return LoraConfig{.targets = {.names = std::move(names)}};
  };
  const auto by_regex = [](const char* regex) { return LoraConfig{.targets = {.regex = regex}}; };
  EXPECT_EQ(selected(by_names({"q_proj"})), "0.q_proj 1.q_proj");
  EXPECT_EQ(selected(by_names({"1.mlp.up_proj", "model.layers.0.self_attn.o_proj"})), "0.o_proj 1.up_proj");
  EXPECT_EQ(selected(by_regex(R"(.*\.0\..*_attn\.[kq]_proj)")), "0.k_proj 0.q_proj");
  const std::string all =
      "0.down_proj 0.gate_proj 0.up_proj 0.k_proj 0.o_proj 0.q_proj 0.v_proj "
      "1.down_proj 1.gate_proj 1.up_proj 1.k_proj 1.o_proj 1.q_proj 1.v_proj";
  EXPECT_EQ(selected(by_regex("all-linear")), all);
  EXPECT_EQ(selected(expand_all_linear(by_regex("All-Linear"), linears())), all);
  EXPECT_EQ(expand_all_linear(by_regex("all-linear"), linears()).targets.names.size(), 7u);

  LoraConfig excluding = by_names({"q_proj", "k_proj"});
  excluding.exclude.names = {"0.self_attn.k_proj"};
  EXPECT_EQ(selected(excluding), "0.q_proj 1.k_proj 1.q_proj");
  excluding.exclude = {.regex = R"(.*\.1\..*)"};
  EXPECT_EQ(selected(excluding), "0.k_proj 0.q_proj");

  LoraConfig layered = by_names({"q_proj", "model.layers.0.mlp.up_proj"});
  layered.layers = {1};
  EXPECT_EQ(selected(layered), "0.up_proj 1.q_proj");  // a whole path counts in any layer
}

TEST(LoraModules, RanksAndScales) {
  LoraConfig config{.r = 8, .alpha = 4, .targets = {.names = {"q_proj", "o_proj"}}};
  config.rank_pattern = {{R"(layers\.1\..*)", 2}, {"o_proj", 16}, {"1.self_attn.o_proj", 5}, {"proj", 7}};
  config.alpha_pattern = {{"(q|v)_proj", 3}};
  const auto check = [&](const std::vector<std::pair<int64_t, double>>& expected) {
    const auto modules = lora_modules(config, linears());
    ASSERT_EQ(modules.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(modules[i].r, expected[i].first) << modules[i].path;
      EXPECT_DOUBLE_EQ(modules[i].scale, expected[i].second) << modules[i].path;
    }
  };
  config.rank_pattern.pop_back();  // "proj" is no whole name, so it matches nothing: see below
  check({{16, 4.0 / 16}, {8, 3.0 / 8}, {2, 4.0 / 2}, {2, 3.0 / 2}});
  config.rslora = true;
  check({{16, 4 / std::sqrt(16)}, {8, 3 / std::sqrt(8)}, {2, 4 / std::sqrt(2)}, {2, 3 / std::sqrt(2)}});
}

TEST(LoraModules, MistakesAreTold) {
  const auto error = [](const LoraConfig& config) -> std::string {
    try {
      lora_modules(config, linears());
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "no error";
  };
  const std::vector<std::pair<LoraConfig, std::string>> cases = {
      {{.targets = {.names = {"q_prj"}}}, "target 'q_prj' matches no linear module"},
      {{.targets = {.names = {"lm_head"}}}, "include lm_head"},
      {{.targets = {.regex = ".*"}}, "include lm_head"},
      {{.targets = {.regex = "q_proj"}}, "'q_proj' match nothing"},
      {{.targets = {.regex = "(q"}}, "lora: targets: regular expression '(q'"},
      {{.exclude = {.regex = "[q"}}, "lora: exclude: regular expression '[q'"},
      {{.exclude = {.names = {"q_proj", "k_proj", "v_proj"}}}, "all excluded"},
      {{.layers = {2}}, "layer 2 is not in the model"},
      {{.targets = {.regex = ".*q_proj"}, .layers = {0}}, "do not go together"},
      {{.rank_pattern = {{"proj", 4}}}, "rank_pattern: 'proj' matches no linear module"},
      {{.rank_pattern = {{"q_proj)|(k_proj", 4}}}, "')' closes no group"},
      {{.rank_pattern = {{"(?<=a)q", 4}}}, "not supported"},
      {{.rank_pattern = {{"q_proj", 0}}}, "rank_pattern.q_proj: expected 1 to 65536, got 0"},
      {{.alpha_pattern = {{"q_proj", NAN}}}, "alpha_pattern.q_proj: expected a number, got nan"},
      {{.r = 0}, "r: expected 1 to 65536, got 0"},
      {{.alpha = INFINITY}, "alpha: expected a number"},
      {{.alpha = 1e300}, "the scale 1.25e+299 from alpha is too large"},
      {{.dropout = 1}, "dropout: expected a share"},
  };
  for (const auto& [config, text] : cases)
    EXPECT_NE(error(config).find(text), std::string::npos) << text << "\n" << error(config);
}

OrderedJson peft_config(const std::string& changes = "{}") {
  OrderedJson json =
      parse_ordered_json(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]})", "");
  json.update(parse_ordered_json(changes, "changes"));
  return json;
}

TEST(PeftConfig, ReadsWhatItWrites) {
  LoraConfig config{.r = 3, .alpha = 2.5, .dropout = 0.25, .targets = {.names = {"v_proj", "o_proj"}}};
  config.exclude.regex = ".*q";
  config.layers = {4, 1};
  config.rank_pattern = {{"o_proj", 5}, {"b", 2}, {"a", 9}};  // not sorted: the first that matches counts
  config.alpha_pattern = {{"z", 1.5}, {"c", 3}};
  config.rslora = config.dora = true;
  config.base_model_name_or_path = "somewhere";
  const OrderedJson json = config.to_peft_json();
  const LoraConfig again = LoraConfig::from_peft_json(json, "file");
  EXPECT_EQ(again.to_peft_json(), json);
  EXPECT_EQ(again.rank_pattern, config.rank_pattern);
  EXPECT_EQ(again.alpha_pattern, config.alpha_pattern);
  EXPECT_EQ(again.exclude, config.exclude);
  EXPECT_EQ(again.layers, config.layers);
  EXPECT_TRUE(again.rslora && again.dora);
  // Older versions of PEFT stumble over keys they do not know, so what is not used is not written.
  EXPECT_EQ(LoraConfig().to_peft_json().size(), 9u);
}

TEST(PeftConfig, OptionsThatAreOffAreOfNoAccount) {
  const LoraConfig config = LoraConfig::from_peft_json(
      peft_config(R"({"bias": "none", "modules_to_save": null, "layer_replication": [], "fan_in_fan_out": false,
                      "loftq_config": {}, "use_dora": null, "layers_to_transform": 3, "layers_pattern": ["layers"],
                      "init_lora_weights": "gaussian", "peft_version": "0.99", "of_tomorrow": false})"),
      "file");
  EXPECT_EQ(config.layers, std::vector<int64_t>{3});
  EXPECT_FALSE(config.dora);
}

TEST(PeftConfig, MistakesNameFileAndKey) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"peft_type": null})", "'peft_type': expected \"LORA\", got null"},
      {R"({"peft_type": "IA3"})", "'peft_type': expected \"LORA\", got \"IA3\""},
      {R"({"r": 0})", "'r': expected a whole number from 1"},
      {R"({"r": 2.5})", "'r'"},
      {R"({"r": "8"})", "'r'"},
      {R"({"lora_alpha": "NaN"})", "'lora_alpha': expected a number, got \"NaN\""},
      {R"({"lora_alpha": null})", "'lora_alpha'"},
      {R"({"lora_dropout": 1})", "'lora_dropout'"},
      {R"({"target_modules": null})", "'target_modules'"},
      {R"({"target_modules": []})", "'target_modules'"},
      {R"({"target_modules": ["q", 3]})", "'target_modules'"},
      {R"({"exclude_modules": 3})", "'exclude_modules'"},
      {R"({"use_dora": "yes"})", "'use_dora': expected true or false"},
      {R"({"rank_pattern": {"q_proj": 0}})", "'rank_pattern': expected a rank"},
      {R"({"rank_pattern": ["q_proj"]})", "'rank_pattern'"},
      {R"({"alpha_pattern": {"q_proj": "1"}})", "'alpha_pattern'"},
      {R"({"layers_to_transform": [-1]})", "'layers_to_transform'"},
      {R"({"layers_pattern": "blocks", "layers_to_transform": 1})", "'layers_pattern'"},
      {R"({"layers_pattern": "layers"})", "'layers_to_transform'"},
      {R"({"layers_to_transform": 1, "target_modules": ".*q_proj"})", "'layers_to_transform'"},
      {R"({"init_lora_weights": "pissa"})", "'init_lora_weights'"},
      {R"({"bias": "all"})", "'bias' = \"all\" is not supported"},
      {R"({"lora_bias": true, "use_dora": true})", "'lora_bias' = true is not supported"},
      {R"({"modules_to_save": ["lm_head"]})", "'modules_to_save'"},
      {R"({"layer_replication": [[0, 4], [2]]})", "'layer_replication'"},
      {R"({"layer_replication": {"0": 4}})", "'layer_replication'"},
      {R"({"modules_to_save": ["input_layernorm"]})", "'modules_to_save'"},
      {R"({"layer_replication": [[4, 0]]})", "'layer_replication'"},
      {R"({"fan_in_fan_out": true})", "'fan_in_fan_out'"},
      {R"({"target_parameters": ["w"]})", "'target_parameters'"},
      {R"({"use_bdlora": {"nblocks": 2}})", "'use_bdlora'"},
      {R"({"alora_invocation_tokens": [1]})", "'alora_invocation_tokens'"},
      {R"({"of_tomorrow": 1})", "'of_tomorrow' = 1 is not supported"},
  };
  for (const auto& [changes, text] : cases) {
    try {
      LoraConfig::from_peft_json(peft_config(changes), "adapter_config.json");
      ADD_FAILURE() << changes << " was read";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadInput);
      EXPECT_TRUE(std::string(e.what()).starts_with("adapter_config.json: ")) << e.what();
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  }
  EXPECT_THROW(LoraConfig::from_peft_json(OrderedJson::array(), "file"), Error);
}

}  // namespace
}  // namespace liger
