// Adapters: DoRA's layer against its formula, PEFT's own adapters and logits, folders written and read, and bad ones.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "command.h"
#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "model_folder.h"
#include "tensor_testing.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using testing::expect_close;

LoraConfig dora_config(double dropout = 0) { return {.r = 3, .alpha = 6, .dropout = dropout, .dora = true}; }

std::shared_ptr<Linear> random_dora(const LoraConfig& config, at::ScalarType type = at::kDouble) {
  at::manual_seed(5);
  auto linear = std::make_shared<Linear>(7, 5, /*bias=*/true, at::TensorOptions(type));
  const at::NoGradGuard no_grad;
  linear->weight.normal_();
  linear->bias.normal_();
  linear->add_lora({.path = "q", .r = config.r, .scale = 2.0}, config);
  return linear;
}

void randomize_adapter(const Linear& linear) {
  const at::NoGradGuard no_grad;
  linear.lora_b().normal_();
  linear.lora_magnitude().uniform_(0.5, 2);
}

TEST(Dora, BeginsAsTheLayerItWas) {
  const auto linear = random_dora(dora_config());
  const at::Tensor x = at::randn({4, 7}, at::kDouble);
  expect_close(linear->forward(x), at::linear(x, linear->weight, linear->bias), 1e-14, "output");
}

TEST(Dora, IsTheLayerOfTheMergedWeight) {
  for (const auto type : {at::kDouble, at::kBFloat16}) {
    const auto linear = random_dora(dora_config(), type);
    randomize_adapter(*linear);
    const at::Tensor &a = linear->lora_a(), &b = linear->lora_b(), &m = linear->lora_magnitude();
    const at::Tensor merged = merged_rows(linear->weight, 0, a, b, 2.0, m);
    expect_close(merged.norm(2, 1), m, 1e-6, "norms of the rows");
    const at::Tensor x = at::randn({4, 7}, at::kDouble).to(type);
    const at::Tensor expected = at::linear(x.to(merged.dtype()), merged, linear->bias.to(merged.dtype()));
    EXPECT_EQ(linear->forward(x).scalar_type(), type);
    expect_close(linear->forward(x), expected, type == at::kDouble ? 1e-14 : 2e-2, "output");
    const at::Tensor last = merged_rows(linear->weight.narrow(0, 3, 2), 3, a, b, 2.0, m);
    expect_close(last, merged.narrow(0, 3, 2), type == at::kDouble ? 1e-15 : 1e-6, "rows by themselves");
  }
}

// Section 4.3 of the paper: no gradient runs through the norm.
TEST(Dora, GradientsTakeTheNormForAConstant) {
  const auto linear = random_dora(dora_config());
  randomize_adapter(*linear);
  const at::Tensor x = at::randn({4, 7}, at::kDouble), g = at::randn({4, 5}, at::kDouble);
  linear->forward(x).mul(g).sum().backward();
  const at::Tensor a = linear->lora_a().detach(), b = linear->lora_b().detach(), m = linear->lora_magnitude().detach();
  const at::Tensor direction = linear->weight.detach() + 2.0 * b.matmul(a);
  const at::Tensor norm = direction.norm(2, 1), scaled = g * (m / norm);
  expect_close(linear->lora_b().grad(), 2.0 * scaled.t().matmul(x.matmul(a.t())), 1e-13, "B");
  expect_close(linear->lora_a().grad(), 2.0 * b.t().matmul(scaled.t().matmul(x)), 1e-13, "A");
  expect_close(linear->lora_magnitude().grad(), (g * x.matmul(direction.t()) / norm).sum(0), 1e-13, "magnitude");
}

// PEFT's form: what dropout takes from the adapter's input stays in the base model's.
TEST(Dora, DropoutActsOnTheAdaptersShareAlone) {
  const auto linear = random_dora(dora_config(0.5));
  randomize_adapter(*linear);
  const at::Tensor x = at::randn({4, 7}, at::kDouble);
  linear->train();
  at::manual_seed(11);
  const at::Tensor got = linear->forward(x);
  at::manual_seed(11);
  const at::Tensor kept = at::dropout(x, 0.5, true);
  ASSERT_FALSE(kept.equal(x));
  const at::Tensor merged =
      merged_rows(linear->weight, 0, linear->lora_a(), linear->lora_b(), 2.0, linear->lora_magnitude());
  const at::Tensor base = at::linear(x, linear->weight, linear->bias);
  expect_close(got, base + at::linear(kept, merged - linear->weight), 1e-13, "training");
  linear->eval();
  expect_close(linear->forward(x), at::linear(x, merged, linear->bias), 1e-13, "evaluation");
}

class PeftGolden : public ::testing::TestWithParam<const char*> {};

at::Tensor logits_of(CausalLM& model, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const Sequences tokens = Sequences::from_padded(ids);
  return tokens.to_padded(model.logits(model.hidden_states(tokens)));
}

TEST_P(PeftGolden, LogitsEqualPefts) {
  const fs::path golden = fs::path(LIGER_TEST_DATA) / "golden", dir = golden / "peft" / GetParam();
  const auto expected = load_tensors(dir / "expected.safetensors");
  LoadOptions options;
  options.adapter = dir;
  const at::Tensor got = logits_of(*CausalLM::load(golden / "llama_untied_mha", options), expected.at("input_ids"));
  expect_close(got.slice(1, 0, got.size(1), 6), expected.at("logits"), 1e-5, "logits");
  options.adapter.clear();
  const at::Tensor base = logits_of(*CausalLM::load(golden / "llama_untied_mha", options), expected.at("input_ids"));
  EXPECT_GT(testing::relative_error(base.slice(1, 0, base.size(1), 6), expected.at("logits")), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Kinds, PeftGolden,
                         ::testing::Values("lora", "rslora", "dora", "dora_of_all_kinds", "patterns",
                                           "regular_expression", "layers"),
                         [](const auto& info) { return std::string(info.param); });

class AdapterFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = test::random_model(test::random_config(40));
    LoraConfig config{.r = 2, .alpha = 4, .targets = {.names = {"q_proj", "down_proj"}}, .dora = true};
    config.rank_pattern = {{R"(1\.mlp\.down_proj)", 5}};
    config_ = add_lora(*model_, config);
    const at::NoGradGuard no_grad;
    for (auto& item : model_->named_parameters())
      if (item.key().find("lora_") != std::string::npos) item.value().normal_().abs_();
    fs::create_directories(dir_);
    save_adapter(*model_, config_, dir_);
  }

  std::shared_ptr<CausalLM> loaded() {
    auto model = test::random_model(test::random_config(40));
    load_adapter(*model, dir_);
    return model;
  }
  std::string error() {
    const auto model = test::random_model(test::random_config(40));
    try {
      load_adapter(*model, dir_);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadInput) << e.what();
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
      for (const auto& item : model->named_parameters()) EXPECT_EQ(item.key().find("lora_"), std::string::npos);
      return e.what();
    }
    return "no error";
  }
  void edit(const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
    std::map<std::string, at::Tensor> tensors;
    for (const auto& [name, tensor] : load_tensors(dir_ / "adapter_model.safetensors")) tensors[name] = tensor.clone();
    change(tensors);
    save_tensors(dir_ / "adapter_model.safetensors", tensors);
  }
  void edit_config(const std::function<void(OrderedJson&)>& change) {
    OrderedJson json = read_ordered_json(dir_ / "adapter_config.json");
    change(json);
    write_text_atomic(dir_ / "adapter_config.json", json.dump());
  }
  void expect_error(const std::vector<std::string>& parts) {
    const std::string text = error();
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    save_adapter(*model_, config_, dir_);
  }

  test::TemporaryFolder folder_;
  fs::path dir_ = folder_ / "adapter";
  std::shared_ptr<CausalLM> model_;
  LoraConfig config_;
};

const std::string kQuery = "base_model.model.model.layers.0.self_attn.q_proj.";

TEST_F(AdapterFolder, IsReadAsItWasWritten) {
  const auto tensors = load_tensors(dir_ / "adapter_model.safetensors");
  EXPECT_EQ(tensors.size(), 12u);
  EXPECT_EQ(tensors.at(kQuery + "lora_magnitude_vector").sizes(), at::IntArrayRef{32});
  EXPECT_EQ(tensors.at("base_model.model.model.layers.1.mlp.down_proj.lora_A.weight").size(0), 5);
  const auto again = loaded();
  for (const auto& item : model_->named_parameters())
    EXPECT_TRUE(again->named_parameters()[item.key()].equal(item.value())) << item.key();
}

TEST_F(AdapterFolder, NamesInMemoryAndOtherTypesAreRead) {
  edit([](auto& tensors) {
    std::map<std::string, at::Tensor> renamed;
    for (auto& [name, tensor] : tensors) {
      std::string other = name;
      const size_t at = name.find(".weight");
      if (at == std::string::npos) other += ".default.weight";
      if (at != std::string::npos) other.insert(at, ".default");
      renamed[other] = tensor.to(at::kBFloat16);
    }
    tensors = renamed;
  });
  const auto again = loaded();
  const std::string name = "model.layers.1.mlp.down_proj.lora_B";
  const at::Tensor got = again->named_parameters()[name];
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_TRUE(got.equal(model_->named_parameters()[name].to(at::kBFloat16).to(at::kFloat)));
}

TEST_F(AdapterFolder, TensorsThatDoNotFitAreToldAllAtOnce) {
  edit([](auto& tensors) {
    tensors.erase(kQuery + "lora_B.weight");
    tensors["base_model.model.lm_head.lora_A.weight"] = at::randn({2, 2});
    tensors[kQuery + "lora_A.weight"] = at::randn({3, 32});
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector"][3] = NAN;
  });
  expect_error({"adapter_model.safetensors: 4 tensors do not fit the model",
                "missing " + kQuery + "lora_B.weight [32, 2]", "unexpected base_model.model.lm_head.lora_A.weight",
                kQuery + "lora_A.weight: expected [2, 32], got [3, 32]",
                "lora_magnitude_vector: holds values that are not finite"});
  edit([](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) { return t.first.find("lora_A") == std::string::npos; });
  });
  expect_error({"8 tensors do not fit", "missing " + kQuery + "lora_B.weight"});
  edit([](auto& tensors) { tensors[kQuery + "lora_A.default.weight"] = tensors.at(kQuery + "lora_A.weight").clone(); });
  expect_error({"1 tensors", "unexpected"});
  edit([](auto& tensors) { tensors[kQuery + "lora_A.weight"] = at::full({2, 32}, 1, at::kLong); });
  expect_error({"not finite numbers"});
}

TEST_F(AdapterFolder, AConfigurationThatDoesNotFitIsTold) {
  edit_config([](OrderedJson& json) { json.erase("rank_pattern"); });
  expect_error({"2 tensors do not fit", "down_proj.lora_A.weight: expected [2, 48], got [5, 48]"});
  edit_config([](OrderedJson& json) { json["r"] = 3; });
  expect_error({"expected [3, 32], got [2, 32]"});
  edit_config([](OrderedJson& json) { json.erase("use_dora"); });
  expect_error({"unexpected " + kQuery + "lora_magnitude_vector"});
  edit_config([](OrderedJson& json) { json["target_modules"] = {"query"}; });
  expect_error({"adapter_config.json: lora: target 'query' matches no linear module"});
  edit_config([](OrderedJson& json) { json["rank_pattern"] = {{"(a", 5}}; });
  expect_error({"adapter_config.json: lora: rank_pattern: regular expression '(a'"});
  edit_config([](OrderedJson& json) { json["rank_pattern"] = {{"((a{1000}){1000}){1000}", 5}}; });
  expect_error({"4096 states"});
  edit_config([](OrderedJson& json) { json["bias"] = "all"; });
  expect_error({"'bias'"});
  test::TemporaryFolder empty;
  fs::rename(dir_ / "adapter_model.safetensors", dir_ / "adapter_model.bin");
  expect_error({"adapter_model.bin is a pickle"});
  fs::remove(dir_ / "adapter_config.json");
  EXPECT_NE(error().find("no adapter_config.json"), std::string::npos);
}

// PEFT takes it, though the product cannot have that rank.
TEST_F(AdapterFolder, ARankAboveTheWeightsIsRun) {
  auto wide = test::random_model(test::random_config(40));
  const LoraConfig config = add_lora(*wide, {.r = 50, .targets = {.names = {"k_proj"}}});
  save_adapter(*wide, config, dir_);
  EXPECT_EQ(loaded()->named_parameters()["model.layers.0.self_attn.k_proj.lora_A"].size(0), 50);
}

TEST_F(AdapterFolder, ToolsEndWithThreeAndOneLine) {
  test::write_model_folder(folder_ / "model");
  write_text_atomic(folder_ / "adapter" / "adapter_config.json", "{\"peft_type\": \"LORA\", \"lora_alpha\": NaN}");
  save_tensors(folder_ / "ids.safetensors", {{"input_ids", at::full({1, 3}, 2, at::kLong)}});
  const auto result = test::run_tool(
      "liger-eval", {"--model", (folder_ / "model").string(), "--adapter", dir_.string(), "--input-ids",
                     (folder_ / "ids.safetensors").string(), "--logits", (folder_ / "out.safetensors").string()});
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_NE(result.err.find("adapter_config.json:1:"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(folder_ / "out.safetensors"));
}

}  // namespace
}  // namespace liger
