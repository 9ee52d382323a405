// What config.json says of each family in the spellings of transformers 4 and 5, and what is refused.

#include <gtest/gtest.h>

#include "liger/core/model_config.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "tiny_model.h"

namespace liger {
namespace {

ModelConfig config_of(const char* family, int64_t layers = 4) {
  ModelConfig config = test::TinyModel().config();
  config.num_hidden_layers = layers;
  test::become(config, family);
  return config;
}
Json json_of(const ModelConfig& config) { return Json::parse(config.to_json().dump()); }
Json json_of(const char* family, int64_t layers = 4) { return json_of(config_of(family, layers)); }
ModelConfig read(const Json& json) { return ModelConfig::from_json(json, "config.json"); }

Json with(Json json, const Json& changes) {
  json.update(changes);
  return json;
}
Json without(Json json, const std::vector<const char*>& keys) {
  for (const char* key : keys) json.erase(key);
  return json;
}

void expect_refused(const Json& json, const std::string& text) {
  try {
    read(json);
    ADD_FAILURE() << "was accepted: " << text;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadInput);
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
  }
}

using Layers = std::vector<bool>;

TEST(Families, ComeBackAsTheyWereWritten) {
  for (const Family* family : families()) {
    SCOPED_TRACE(family->model_type);
    ModelConfig config = config_of(family->model_type);
    EXPECT_EQ(json_of(read(json_of(config))), json_of(config));
    EXPECT_EQ(read(json_of(config)).sliding_layers, config.sliding_layers);
    config.liger = LigerConfig{.window = 9};
    EXPECT_EQ(json_of(read(json_of(config))), json_of(config));
    EXPECT_EQ(read(json_of(config)).family, family);
    config.recursive = Recursion{.loops = 2};
    const ModelConfig again = read(json_of(config));
    EXPECT_EQ(json_of(again), json_of(config));
    EXPECT_EQ(again.sliding_layers, config.sliding_layers);
    EXPECT_EQ(json_of(again.unrolled())["num_hidden_layers"], 4);
  }
}

TEST(Families, MistralHasAWindowInAllLayersOrNone) {
  const Json json = json_of("mistral");
  EXPECT_EQ(read(json).window_of(3), 7);
  EXPECT_EQ(read(without(json, {"sliding_window"})).window_of(0), 4096);  // as transformers takes it
  const ModelConfig all = read(with(json, {{"sliding_window", nullptr}}));
  EXPECT_EQ(all.window_of(0), 0);
  EXPECT_TRUE(all.sliding_layers.empty());
  EXPECT_TRUE(json_of(all)["sliding_window"].is_null());
  expect_refused(with(json, {{"sliding_window", 0}}), "'sliding_window': expected an integer from 1");
  const Json types = {"full_attention", "sliding_attention", "full_attention", "sliding_attention"};
  expect_refused(with(json, {{"layer_types", types}}), "'layer_types': expected sliding_attention for each layer");
}

TEST(Families, QwenHasWindowsIfItSaysSo) {
  for (const char* family : {"qwen2", "qwen3"}) {
    SCOPED_TRACE(family);
    const Json plain =
        without(json_of(family), {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"});
    EXPECT_TRUE(read(plain).sliding_layers.empty());
    EXPECT_TRUE(read(with(plain, {{"sliding_window", 5}, {"max_window_layers", 0}})).sliding_layers.empty());
    const Json upper = with(plain, {{"use_sliding_window", true}, {"sliding_window", 5}, {"max_window_layers", 3}});
    EXPECT_EQ(read(upper).sliding_layers, (Layers{false, false, false, true}));
    EXPECT_EQ(read(upper).window_of(3), 5);
    EXPECT_TRUE(read(without(upper, {"max_window_layers"})).sliding_layers.empty());  // from layer 28 on
    const Json types = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
    EXPECT_EQ(read(with(upper, {{"layer_types", types}})).sliding_layers, (Layers{true, false, false, false}));
    expect_refused(with(plain, {{"layer_types", types}}), "'use_sliding_window': expected a window");
    expect_refused(with(upper, {{"layer_types", {"full_attention"}}}), "a name for each of 4 layers");
    Json other = types;
    other[2] = "chunked_attention";
    expect_refused(with(upper, {{"layer_types", other}}), "not \"chunked_attention\"");
  }
}

TEST(Families, QwensProjectionsOfAttentionHaveBiasesAndNothingElse) {
  const ModelConfig qwen = read(with(without(json_of("qwen2"), {"attention_bias"}), {{"mlp_bias", true}}));
  std::string biases;
  for (const ExpectedTensor& tensor : expected_tensors(qwen))
    if (is_layer_bias(tensor.name) && tensor.name.find(".0.") != std::string::npos) biases += tensor.name + " ";
  EXPECT_EQ(biases,
            "model.layers.0.self_attn.q_proj.bias model.layers.0.self_attn.k_proj.bias "
            "model.layers.0.self_attn.v_proj.bias ");
}

TEST(Families, NormsOfAGemma3Layer) {
  std::string norms;
  for (const ExpectedTensor& tensor : expected_tensors(config_of("gemma3_text")))
    if (is_layer_norm(tensor.name) && tensor.name.starts_with("model.layers.1.")) norms += tensor.name.substr(15) + " ";
  EXPECT_EQ(norms,
            "self_attn.q_norm.weight self_attn.k_norm.weight input_layernorm.weight post_attention_layernorm.weight "
            "pre_feedforward_layernorm.weight post_feedforward_layernorm.weight ");
  EXPECT_FALSE(is_layer_norm("model.norm.weight"));
}

TEST(Families, Gemma2AsTransformersTakesIt) {
  const Json json = without(json_of("gemma2"), {"layer_types", "sliding_window", "query_pre_attn_scalar",
                                                "attn_logit_softcapping", "final_logit_softcapping", "head_dim"});
  const ModelConfig config = read(json);
  EXPECT_EQ(config.sliding_layers, (Layers{true, false, true, false}));
  EXPECT_EQ(config.window_of(0), 4096);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.query_factor(), 1);
  EXPECT_EQ(config.attention_softcap, 50);
  EXPECT_EQ(config.logit_softcap, 30);
  const ModelConfig open =
      read(with(json, {{"attn_logit_softcapping", nullptr}, {"final_logit_softcapping", nullptr}}));
  EXPECT_EQ(open.attention_softcap, 0);
  EXPECT_EQ(open.logit_softcap, 0);
  EXPECT_DOUBLE_EQ(read(with(json, {{"query_pre_attn_scalar", 64}})).query_factor(), 2);
  EXPECT_EQ(read(with(json, {{"hidden_activation", "gelu"}, {"hidden_act", "silu"}})).hidden_act, "gelu");
  expect_refused(with(json, {{"sliding_window", nullptr}}), "'sliding_window': expected a window");
  expect_refused(with(json, {{"attn_logit_softcapping", -1}}), "'attn_logit_softcapping': expected a positive number");
  expect_refused(with(json, {{"use_bidirectional_attention", true}}), "'use_bidirectional_attention': expected false");
}

TEST(Families, Gemma3InBothSpellings) {
  const Json linear = {{"rope_type", "linear"}, {"factor", 8.0}};
  const Json bare = without(json_of("gemma3_text", 7),
                            {"layer_types", "rope_theta", "rope_local_base_freq", "rope_scaling", "rope_parameters"});
  const ModelConfig old =
      read(with(bare, {{"rope_theta", 2e6}, {"rope_local_base_freq", 5e3}, {"rope_scaling", linear}}));
  Json full = linear;
  full["rope_theta"] = 2e6;
  const ModelConfig now =
      read(with(bare, {{"rope_parameters", {{"full_attention", full}, {"sliding_attention", {{"rope_theta", 5e3}}}}}}));
  EXPECT_EQ(json_of(old), json_of(now));
  EXPECT_EQ(old.sliding_layers, (Layers{true, true, true, true, true, false, true}));
  EXPECT_EQ(old.rope.type, RopeConfig::Type::kLinear);
  EXPECT_EQ(old.rope.theta, 2e6);
  EXPECT_EQ(old.local_rope->theta, 5e3);
  EXPECT_EQ(old.local_rope->type, RopeConfig::Type::kDefault);
  EXPECT_TRUE(old.has_local_rope(0) && !old.has_local_rope(5));
  EXPECT_EQ(read(bare).rope.theta, 1e6);
  EXPECT_EQ(read(bare).local_rope->theta, 1e4);
  EXPECT_EQ(read(with(bare, {{"sliding_window_pattern", 2}})).sliding_layers,
            (Layers{true, false, true, false, true, false, true}));
  expect_refused(with(bare, {{"rope_parameters", full}}), "'rope_parameters': expected an object for full_attention");
  expect_refused(with(bare, {{"attn_logit_softcapping", 50}}), "transformers does not apply it");
  expect_refused(with(json_of("qwen3"), {{"rope_parameters", {{"full_attention", full}}}}), "one RoPE for all layers");
}

TEST(Families, ModelsOfMoreThanTextAreRefused) {
  const Json json = {{"model_type", "gemma3"}, {"text_config", json_of("gemma3_text")}};
  expect_refused(json, "has its text model within another ('text_config'), and only text models are supported");
}

}  // namespace
}  // namespace liger
