// The "liger" object of config.json: names, defaults, what contradicts, and how it is said.

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "liger/core/model_config.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/models/structure.h"
#include "tiny_model.h"

namespace liger {
namespace {

constexpr const char* kFile = "DIR/config.json";

Json base_config() { return Json::parse(test::TinyModel().config().to_json().dump()); }

// As liger-convert writes it for this structure.
Json linearized(LigerConfig liger) {
  ModelConfig config = test::TinyModel().config();
  config.liger = std::move(liger);
  return Json::parse(config.to_json().dump());
}

Json linearized(const std::string& structure) { return linearized(LigerConfig{.recurrence = structure}); }

ModelConfig read(const Json& config) { return ModelConfig::from_json(config, kFile); }

template <typename Body>
std::string error_of(ErrorCode code, const Body& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "was accepted";
  return "";
}

void expect_refused(const Json& config, const std::string& text) {
  const std::string error = error_of(ErrorCode::kBadInput, [&] { read(config); });
  EXPECT_TRUE(error.starts_with(kFile)) << error;
  EXPECT_NE(error.find(text), std::string::npos) << error;
}

// A "liger" object with one value changed.
void expect_bad_setting(const char* key, const Json& value, const std::string& text,
                        const std::string& structure = "gla") {
  Json config = linearized(structure);
  config["liger"][key] = value;
  expect_refused(config, std::string(kFile) + ": 'liger': " + text);
}

TEST(Structures, NamesOfModelTypesAndArchitectures) {
  const std::map<std::string, std::pair<std::string, std::string>> expected = {
      {"gla", {"liger_gla", "LigerGLAForCausalLM"}},
      {"hgrn2", {"liger_hgrn2", "LigerHGRN2ForCausalLM"}},
      {"gsa", {"liger_gsa", "LigerGSAForCausalLM"}},
      {"gated-retention", {"liger_gated_retention", "LigerGatedRetentionForCausalLM"}},
      {"mamba2", {"liger_mamba2", "LigerMamba2ForCausalLM"}},
      {"mlstm", {"liger_mlstm", "LigerMLSTMForCausalLM"}},
      {"retnet", {"liger_retnet", "LigerRetNetForCausalLM"}},
      {"lightning", {"liger_lightning", "LigerLightningForCausalLM"}},
      {"rwkv6", {"liger_rwkv6", "LigerRWKV6ForCausalLM"}},
      {"deltanet", {"liger_deltanet", "LigerDeltaNetForCausalLM"}},
      {"gated-deltanet", {"liger_gated_deltanet", "LigerGatedDeltaNetForCausalLM"}},
      {"kda", {"liger_kda", "LigerKDAForCausalLM"}},
      {"linear", {"liger_linear", "LigerLinearForCausalLM"}},
      {"swa", {"liger_swa", "LigerSWAForCausalLM"}},
  };
  EXPECT_EQ(structures().size(), expected.size());
  for (const auto& [name, names] : expected) {
    EXPECT_EQ(liger_model_type(name), names.first);
    EXPECT_EQ(liger_architecture(name), names.second);
    EXPECT_EQ(find_structure_of_model_type(names.first), find_structure(name));
    ASSERT_NE(find_structure(name), nullptr);
  }
  EXPECT_EQ(find_structure("softmax"), nullptr);
  EXPECT_EQ(find_structure_of_model_type("llama"), nullptr);
}

TEST(Structures, ThoseWithAGateDivisorAndThoseThatArePublished) {
  std::set<std::string> divided, published;
  for (const Structure& s : structures()) {
    if (s.uses_divisor) divided.insert(s.name);
    if (s.published) published.insert(s.name);
  }
  EXPECT_EQ(divided, (std::set<std::string>{"gla", "gsa", "gated-retention", "gated-deltanet", "kda"}));
  EXPECT_EQ(published, (std::set<std::string>{"gla", "gsa", "hgrn2"}));
}

TEST(Structures, UnknownNamesAreAnsweredWithTheNearest) {
  const std::string mamba = unknown_structure("mamba");
  EXPECT_NE(mamba.find("'mamba' is not known; did you mean 'mamba2'? Known are gla, "), std::string::npos) << mamba;
  EXPECT_NE(unknown_structure("gated_deltanet").find("did you mean 'gated-deltanet'?"), std::string::npos);
  const std::string hyena = unknown_structure("hyena-operator");
  EXPECT_NE(hyena.find("'hyena-operator' is not known; known are gla, "), std::string::npos) << hyena;
  error_of(ErrorCode::kUsage, [] { liger_model_type("mamba"); });
}

TEST(Structures, HeadsTooWideForARecurrence) {
  ModelConfig model = test::TinyModel().config();
  for (const Structure& s : structures()) EXPECT_EQ(unsupported_reason(s.name, model), "");
  model.head_dim = 512;
  for (const Structure& s : structures()) EXPECT_EQ(unsupported_reason(s.name, model), "");
  model.head_dim = 514;
  for (const Structure& s : structures()) {
    const std::string reason = unsupported_reason(s.name, model);
    if (s.name == std::string("swa")) {
      EXPECT_EQ(reason, "");
    } else {
      EXPECT_NE(reason.find("at most 512; this model has 514"), std::string::npos) << reason;
      EXPECT_NE(reason.find("swa"), std::string::npos) << reason;
    }
  }
}

TEST(LigerSettings, ComeBackAsTheyWereWritten) {
  for (const Structure& s : structures()) {
    for (const LigerConfig& liger :
         {LigerConfig{.recurrence = s.name}, LigerConfig{.recurrence = s.name, .window = 7, .sinks = 2},
          LigerConfig{.recurrence = s.name, .window = 7, .softmax_layers = {0, 2}}}) {
      const ModelConfig config = read(linearized(liger));
      ASSERT_TRUE(config.liger.has_value());
      EXPECT_EQ(*config.liger, liger) << s.name;
      EXPECT_EQ(config.family, find_family("llama"));
      EXPECT_EQ(Json::parse(config.to_json().dump()), linearized(liger));
    }
  }
  EXPECT_EQ(read(linearized(LigerConfig{.window = 0})).liger->window, 0);
  const Json gla = linearized(LigerConfig{.mix = 0.25, .gate_divisor = 8});
  EXPECT_EQ(gla["liger"], (Json{{"recurrence", "gla"},
                                {"window", 65},
                                {"sinks", 0},
                                {"mix", 0.25},
                                {"gate_divisor", 8.0},
                                {"base_model_type", "llama"}}));
}

TEST(LigerSettings, HoldWhatHasAMeaningOnly) {
  EXPECT_FALSE(linearized("swa")["liger"].contains("mix"));
  EXPECT_FALSE(linearized(LigerConfig{.window = 0})["liger"].contains("mix"));
  EXPECT_FALSE(linearized("hgrn2")["liger"].contains("gate_divisor"));
  EXPECT_FALSE(linearized("gla")["liger"].contains("softmax_layers"));
  EXPECT_FALSE(linearized("gla").contains("pool_size"));
  EXPECT_EQ(linearized("gsa")["pool_size"], 8);
  Json swa = linearized("swa");
  swa["liger"]["mix"] = 0.25;  // of no meaning, and nobody's fault
  EXPECT_EQ(read(swa).liger->window_share(), 1);
}

TEST(LigerSettings, TheShareOfTheWindow) {
  EXPECT_EQ(LigerConfig{.mix = 0.3}.window_share(), 0.3);
  EXPECT_EQ((LigerConfig{.window = 0, .mix = 0.3}.window_share()), 0);
  EXPECT_EQ((LigerConfig{.recurrence = "swa", .mix = 0.3}.window_share()), 1);
  EXPECT_TRUE(LigerConfig{}.has_mix());
  EXPECT_FALSE(LigerConfig{.window = 0}.has_mix());
  EXPECT_FALSE(LigerConfig{.recurrence = "swa"}.has_mix());
}

TEST(LigerSettings, LayersThatStaySoftmax) {
  Json config = linearized("gla");
  config["liger"]["softmax_layers"] = {2, 0};
  const ModelConfig hybrid = read(config);
  EXPECT_EQ(hybrid.liger->softmax_layers, (std::vector<int64_t>{0, 2}));
  EXPECT_TRUE(hybrid.is_softmax_layer(0));
  EXPECT_FALSE(hybrid.is_softmax_layer(1));
  EXPECT_TRUE(hybrid.is_softmax_layer(2));
  EXPECT_TRUE(hybrid.has_softmax_layers());
  const ModelConfig pure = read(linearized("gla")), base = read(base_config());
  EXPECT_FALSE(pure.is_softmax_layer(0));
  EXPECT_FALSE(pure.has_softmax_layers());
  EXPECT_TRUE(base.is_softmax_layer(1));
  EXPECT_TRUE(base.has_softmax_layers());

  expect_bad_setting("softmax_layers", {3}, "softmax_layers: expected layers from 0 to 2, got 3");
  expect_bad_setting("softmax_layers", {-1}, "softmax_layers: expected layers from 0 to 2, got -1");
  expect_bad_setting("softmax_layers", {1, 0, 1}, "softmax_layers: expected each layer once, got 1 twice");
  expect_bad_setting("softmax_layers", {0, 1, 2}, "softmax_layers: all 3 layers would stay softmax attention");
  expect_bad_setting("softmax_layers", {0, "1"}, "'softmax_layers': expected a list");
  expect_bad_setting("softmax_layers", 1, "'softmax_layers': expected a list");
}

TEST(LigerSettings, BadValuesNameTheFileAndTheKey) {
  expect_bad_setting("window", -3, "window: expected from 0 to 16777216 keys, got -3");
  expect_bad_setting("window", int64_t{1} << 40, "window: expected from 0 to 16777216 keys");
  expect_bad_setting("window", "many", "'window': expected a whole number");
  expect_bad_setting("window", 0, "window: expected 1 or more keys, as swa has nothing but the window, got 0", "swa");
  expect_bad_setting("sinks", -1, "sinks: expected from 0 to 16777216 keys, got -1");
  expect_bad_setting("mix", 1.5, "mix: expected a share from 0 to 1, got 1.5");
  expect_bad_setting("gate_divisor", 0, "gate_divisor: expected a positive number, got 0");
  expect_bad_setting("gate_divisor", 16, "gate_divisor: hgrn2 has none, as its decay is sigmoid(k)", "hgrn2");
  expect_bad_setting("windw", 3, "unknown key 'windw'; did you mean 'window'?");
  expect_bad_setting("recurrence", 3, "'recurrence': expected text");
  expect_bad_setting("recurrence", "glaa", "recurrence: 'glaa' is not known; did you mean 'gla'?");
  expect_bad_setting("base_model_type", "mamba",
                     "base_model_type: expected one of llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, "
                     "gpt_neox, got \"mamba\"");
  expect_bad_setting(
      "base_model_type", 7,
      "base_model_type: expected one of llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, gpt_neox, got 7");
  Json config = linearized("gla");
  config["liger"]["window"] = 0;
  config["liger"]["sinks"] = 4;
  expect_refused(config, "'liger': sinks: expected 0, as the softmax branch");
  config["liger"] = {1};
  expect_refused(config, "'liger': expected an object, got array");
}

// What the paper does not have: features, normalizer, state, numbers of heads.
LigerConfig beyond_the_paper() {
  LigerConfig liger{.recurrence = "gated-retention", .window = 9, .sinks = 2, .softmax_layers = {1}};
  liger.features = FeatureMap::kExpPair;
  liger.normalizer = Normalizer::kShared;
  liger.rope_features = liger.beyond_window = true;
  liger.heads[kLinearWeight] = {{-1.5, 2, 3, 1e-3}, {}, {0, 0, 0, 1.0 / 3}};
  liger.heads[kLogGate] = {{-1, -2}, {}, {0.5, 0}};
  return liger;
}

TEST(LigerSettings, BeyondThePaperAreReadAsTheyAreWritten) {
  const Json config = linearized(beyond_the_paper());
  EXPECT_EQ(*read(config).liger, beyond_the_paper());
  const Json& liger = config["liger"];
  EXPECT_EQ(liger["features"], "exp-pair");
  EXPECT_EQ(liger["normalizer"], "shared");
  EXPECT_EQ(liger["state"], "beyond-window");
  EXPECT_TRUE(liger["heads"].contains("log_linear_weight"));
  EXPECT_FALSE(liger.contains("mix"));
  LigerConfig mixed = beyond_the_paper();
  mixed.features.reset();
  mixed.layer_features = {FeatureMap::kSoftmaxPair, FeatureMap::kSoftmax, FeatureMap::kExpPair};
  EXPECT_EQ(*read(linearized(mixed)).liger, mixed);
  EXPECT_EQ(linearized(mixed)["liger"]["features"], Json({"softmax-pair", "softmax", "exp-pair"}));
  LigerConfig plain{.recurrence = "gla"};
  plain.heads[kLinearWeight] = {{1, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}};
  EXPECT_EQ(*read(linearized(plain)).liger, plain);
  EXPECT_TRUE(linearized(plain)["liger"]["heads"].contains("linear_weight"));
}

TEST(LigerSettings, BeyondThePaperThatMakeNoSenseAreRefused) {
  expect_bad_setting("features", "relu",
                     "features: expected one of identity, softmax, softmax-pair, exp-pair, got 'relu'");
  expect_bad_setting("features", "exp-pair", "features: gsa has no features to choose", "gsa");
  expect_bad_setting("features", {"softmax", "exp-pair"}, "features: expected a name for each of 3 layers, got 2");
  expect_bad_setting("features", Json::array(), "features: expected a name, or one for each layer, got []");
  expect_bad_setting("features", {"softmax", 3, "softmax"}, "features: expected a name for each layer, got 3");
  expect_bad_setting("features", {"softmax", "relu", "softmax"}, "features: expected one of identity, softmax");
  expect_bad_setting("normalizer", "own", "normalizer: kda has no sum of keys", "kda");
  expect_bad_setting("normalizer", "own", "normalizer: mlstm has a normalizer of its own", "mlstm");
  expect_bad_setting("normalizer", "at-least-one", "normalizer: expected one of none, own, shared");
  expect_bad_setting("state", "some", "state: expected one of all, beyond-window, got 'some'");
  expect_bad_setting("state", "beyond-window", "state: expected 'all'", "swa");
  expect_bad_setting("rope_features", 3, "'rope_features': expected true or false");
  expect_bad_setting("heads", 3, "heads: expected an object, got number");
  const auto with = [](const char* name, const Json& rows) { return Json{{name, rows}}; };
  expect_bad_setting("heads", with("weight", Json::array()), "heads: expected of window_weight, linear_weight");
  expect_bad_setting("heads", with("query_scale", 1), "heads: query_scale: expected a list of a layer's numbers each");
  expect_bad_setting("heads", with("query_scale", {1, 2, 3}), "heads: query_scale: layer 0: expected a list");
  const Json four = {1, 2, 3, 4};
  expect_bad_setting("heads", with("query_scale", {four, four}),
                     "heads: query_scale: expected a list for each of 3 layers, got 2");
  expect_bad_setting("heads", with("key_scale", {four, four, four}),
                     "heads: key_scale: layer 0: expected 2 numbers, got 4");
  expect_bad_setting("heads", with("query_scale", {four, four, {1, 2, "3", 4}}),
                     "heads: query_scale: layer 2: expected numbers, got");
  Json config = linearized(beyond_the_paper());
  config["liger"]["heads"]["window_weight"] = {four, Json::array(), four};
  expect_refused(config, "heads: expected of log_linear_weight, query_scale");
  config = linearized(beyond_the_paper());
  config["liger"]["window"] = config["liger"]["sinks"] = 0;
  expect_refused(config, "normalizer: 'shared' is shared with the window");
}

TEST(LigerSettings, TheSameValuesGivenByAUserAreTheirMistake) {
  const ModelConfig model = test::TinyModel().config();
  const auto refused = [&](const LigerConfig& liger) {
    return error_of(ErrorCode::kUsage, [&] { validate(liger, model, "here"); });
  };
  EXPECT_EQ(refused({.window = -3}), "here: window: expected from 0 to 16777216 keys, got -3");
  EXPECT_NE(refused({.mix = NAN}).find("here: mix: expected a share"), std::string::npos);
  EXPECT_NE(refused({.recurrence = "mamba"}).find("here: recurrence: 'mamba' is not known"), std::string::npos);
  EXPECT_NE(refused({.recurrence = "linear", .gate_divisor = 8}).find("linear has none, as nothing decays"),
            std::string::npos);
  EXPECT_NE(refused({.softmax_layers = {4}}).find("from 0 to 2, got 4"), std::string::npos);
}

TEST(ModelTypes, ThePublishedOnesNeedNoObject) {
  for (const char* name : {"gla", "gsa", "hgrn2"}) {
    Json config = linearized(name);
    config.erase("liger");
    EXPECT_EQ(*read(config).liger, LigerConfig{.recurrence = name});
  }
  Json config = linearized("kda");
  config.erase("liger");
  expect_refused(config, "'liger': expected an object, as model_type 'liger_kda'");
}

TEST(ModelTypes, WhatTheObjectLeavesOutIsAsTheModelTypeSays) {
  Json config = linearized("gated-deltanet");
  config["liger"] = {{"window", 9}};
  EXPECT_EQ(*read(config).liger, (LigerConfig{.recurrence = "gated-deltanet", .window = 9}));
  EXPECT_EQ(read(config).family, find_family("llama"));
}

TEST(ModelTypes, MayNotContradictTheObject) {
  Json config = linearized("gla");
  config["model_type"] = "liger_hgrn2";
  config["liger"].erase("gate_divisor");
  expect_refused(config,
                 "model_type 'liger_hgrn2' contradicts 'liger', whose recurrence is 'gla'; expected model_type "
                 "'liger_gla' or recurrence 'hgrn2'");
  config = linearized("gated-retention");
  config["model_type"] = "llama";
  expect_refused(config,
                 "model_type 'llama' contradicts the object 'liger'; remove the object for softmax attention, "
                 "or set model_type to 'liger_gated_retention'");
  config["model_type"] = "liger_llama_gla";
  expect_refused(
      config,
      "model_type 'liger_llama_gla' is not supported (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text");
}

TEST(ModelTypes, SlotsOfGsaAreThoseOfAHead) {
  Json config = linearized("gsa");
  config["pool_size"] = 16;
  expect_refused(config, "'pool_size': expected head_dim = 8, got 16; a gate that is pooled");
  config.erase("pool_size");
  EXPECT_EQ(read(config).liger->recurrence, "gsa");  // ours
  config.erase("liger");
  expect_refused(config, "'pool_size': expected head_dim = 8, got nothing, which means 64");
  config["head_dim"] = 64;
  EXPECT_EQ(read(config).head_dim, 64);
  config = linearized("hgrn2");
  config["pool_size"] = 16;  // stored by the published code, and not used
  EXPECT_EQ(read(config).liger->recurrence, "hgrn2");
}

TEST(ModelTypes, HeadsTooWideAreRefusedWhenRead) {
  Json config = linearized("kda");
  config["head_dim"] = 1024;
  expect_refused(config, "'liger': recurrence: kda keeps head_dim^2 numbers a head");
  config = linearized("swa");
  config["head_dim"] = 1024;
  EXPECT_EQ(read(config).head_dim, 1024);
}

}  // namespace
}  // namespace liger
