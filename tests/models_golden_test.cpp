// Tiny checkpoints of every family against the logits transformers gives (tests/compare/make_goldens.py).

#include <ATen/TensorOperators.h>

#include <filesystem>

#include "io_test_util.h"
#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "tensor_testing.h"

namespace liger {
namespace {

class Golden : public ::testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path dir() const { return std::filesystem::path(LIGER_TEST_DATA) / "golden" / GetParam(); }
};

at::Tensor padded_logits(CausalLM& model, const at::Tensor& ids, const at::Tensor& mask) {
  at::NoGradGuard no_grad;
  const Sequences tokens = Sequences::from_padded(ids, mask);
  return tokens.to_padded(model.logits(model.hidden_states(tokens)));
}

at::Tensor every_tenth(const at::Tensor& x) { return x.slice(1, 0, x.size(1), 10); }

TEST_P(Golden, LogitsEqualTransformers) {
  const auto expected = load_tensors(dir() / "expected.safetensors");
  const at::Tensor& ids = expected.at("input_ids");
  const at::Tensor& mask = expected.at("attention_mask");
  const at::Tensor real = every_tenth(mask).unsqueeze(-1);
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kDouble, 1e-6}}) {
    LoadOptions options;
    options.dtype = type;
    const at::Tensor got = every_tenth(padded_logits(*CausalLM::load(dir(), options), ids, mask));
    testing::expect_close(got * real, expected.at("logits") * real, tolerance, "logits");
  }
}

// Token by token through the cache.
TEST_P(Golden, DecodingEqualsTheFullForward) {
  const auto expected = load_tensors(dir() / "expected.safetensors");
  const at::Tensor ids = expected.at("input_ids").narrow(1, 0, 40);
  const auto model = CausalLM::load(dir());
  at::NoGradGuard no_grad;
  const at::Tensor whole = padded_logits(*model, ids, {});
  DecodingState state;
  for (int64_t begin = 0, length = 25; begin < 40; begin += length, length = 1) {
    const Sequences part = Sequences::from_padded(ids.narrow(1, begin, length).contiguous());
    const at::Tensor logits = part.to_padded(model->logits(model->hidden_states(part, &state)));
    testing::expect_close(logits, whole.narrow(1, begin, length), 1e-5, "logits");
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Golden,
                         ::testing::Values("llama_tied_gqa", "llama_untied_mha", "llama_rope3", "gemma", "gpt_neox",
                                           "gpt_neox_sequential", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(ModelConfig, ReadsBothSpellingsOfWhatItWrites) {
  const auto dir = std::filesystem::path(LIGER_TEST_DATA) / "golden" / "llama_rope3";
  const ModelConfig config = ModelConfig::read(dir);
  OrderedJson json = config.to_json();
  for (const char* spelling : {"rope_parameters", "rope_scaling"}) {
    OrderedJson one = json;
    one.erase(spelling);
    if (std::string(spelling) == "rope_scaling") one.erase("rope_theta");
    const ModelConfig again = ModelConfig::from_json(Json::parse(one.dump()), "test");
    EXPECT_EQ(again.to_json(), json) << spelling;
    EXPECT_EQ(again.rope.theta, 500000.0);
    EXPECT_EQ(again.rope.type, RopeConfig::Type::kLlama3);
  }
}

TEST(ModelConfig, GptNeoXComesBackAsItWasWritten) {
  for (const char* name : {"gpt_neox", "gpt_neox_sequential"}) {
    const ModelConfig config = ModelConfig::read(std::filesystem::path(LIGER_TEST_DATA) / "golden" / name);
    EXPECT_EQ(config.parallel_residual, std::string(name) == "gpt_neox");
    EXPECT_EQ(config.rotary_dim, config.parallel_residual ? 2 : 6);
    EXPECT_TRUE(config.attention_bias && config.mlp_bias);
    const OrderedJson json = config.to_json();
    OrderedJson old = json;  // as the models of the Hub say it
    old.erase("rope_parameters");
    for (const OrderedJson& spelling : {json, old})
      EXPECT_EQ(ModelConfig::from_json(Json::parse(spelling.dump()), "test").to_json(), json);
    Json bad = Json::parse(old.dump());
    bad["rotary_pct"] = 0.1;
    EXPECT_NE(std::string(test::error_of([&] { ModelConfig::from_json(bad, "config.json"); }).what())
                  .find("'rotary_pct': expected a share"),
              std::string::npos);
  }
}

void expect_refused(const char* key, const Json& value, const std::string& message) {
  Json json =
      Json::parse(ModelConfig::read(std::filesystem::path(LIGER_TEST_DATA) / "golden" / "gemma").to_json().dump());
  json[key] = value;
  if (std::string(key) == "liger") json["model_type"] = "liger_gla";
  try {
    ModelConfig::from_json(json, "config.json");
    FAIL() << key << " = " << value << " was accepted";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
  }
}

TEST(ModelConfig, RefusesWhatCannotBe) {
  expect_refused("vocab_size", 0, "'vocab_size': expected an integer from 1");
  expect_refused("hidden_size", int64_t{1} << 40, "'hidden_size'");
  expect_refused("num_hidden_layers", 1000000000, "'num_hidden_layers'");
  expect_refused("num_key_value_heads", 3, "a divisor of num_attention_heads = 4");
  expect_refused("num_key_value_heads", 8, "'num_key_value_heads'");
  expect_refused("rms_norm_eps", -1e-6, "'rms_norm_eps': expected a positive number");
  expect_refused(
      "model_type", "mamba",
      "model_type 'mamba' is not supported (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, gpt_neox, "
      "liger_gla, ");
  expect_refused("rope_scaling", {{"rope_type", "yarn"}}, "rope type 'yarn' is not supported");
  expect_refused("rope_scaling", {{"rope_type", "linear"}, {"factor", nullptr}}, "'factor'");
  expect_refused("liger", {{"windw", 3}}, "did you mean 'window'");
  expect_refused("liger", {{"window", -1}}, "window");
  expect_refused("head_dim", 7, "is odd");
  Json json = {{"model_type", "llama"}, {"liger", {{"window", 9}}}};  // which of the two is meant?
  EXPECT_THROW(ModelConfig::from_json(json, "config.json"), Error);
}

}  // namespace
}  // namespace liger
