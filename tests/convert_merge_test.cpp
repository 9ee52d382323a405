// liger-convert --merge: an adapter added to the weights.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full_like.h>

#include <algorithm>

#include "command.h"
#include "liger/convert/convert.h"
#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/nn/lora.h"
#include "model_folder.h"
#include "tensor_testing.h"
#include "tiny_model.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using testing::expect_close;

class Merge : public ::testing::Test {
 protected:
  void write_adapter(LoraConfig config) {
    const auto model = CausalLM::load(model_);
    config = add_lora(*model, config);
    at::manual_seed(9);
    const at::NoGradGuard no_grad;
    for (auto& item : model->named_parameters()) {
      if (item.key().ends_with("lora_B")) item.value().normal_(0, 0.2);
      if (item.key().ends_with("lora_magnitude_vector")) item.value().mul_(1.3);
    }
    fs::create_directories(adapter_);
    save_adapter(*model, config, adapter_);
  }
  void to_bfloat16() {
    CausalLM::load(model_)->save_weights(model_ / "model.safetensors", at::kBFloat16);
    Json config = read_json(model_ / "config.json");
    config["dtype"] = config["torch_dtype"] = "bfloat16";
    test::write_file(model_ / "config.json", config.dump());
  }
  ConvertPlan merge(ConvertOptions options = {}) {
    options.model = model_;
    options.arch.clear();
    options.merge = adapter_;
    options.out = out_;
    options.overwrite = true;
    ConvertPlan plan = plan_conversion(options);
    run_conversion(plan);
    return plan;
  }
  at::Tensor logits(const fs::path& dir, const fs::path& adapter = {}) {
    LoadOptions options;
    options.adapter = adapter;
    const at::NoGradGuard no_grad;
    const auto model = CausalLM::load(dir, options);
    return model->logits(model->hidden_states(Sequences({{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3}})));
  }
  test::CommandResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--model", model_.string()});
    return test::run_tool("liger-convert", arguments);
  }

  test::TemporaryFolder folder_;
  fs::path model_ = folder_ / "model", adapter_ = folder_ / "adapter", out_ = folder_ / "out";
};

LoraConfig some_config() {
  LoraConfig config{.r = 3, .alpha = 7, .targets = {.regex = "all-linear"}, .exclude = {.names = {"0.mlp.up_proj"}}};
  config.rank_pattern = {{"q_proj", 5}};
  return config;
}

TEST_F(Merge, LogitsAreThoseOfTheAdapterBesideTheModel) {
  for (const bool liger : {false, true}) {
    fs::remove_all(model_);
    test::write_model_folder(model_, liger ? std::optional(test::short_window()) : std::nullopt);
    for (const bool dora : {false, true}) {
      LoraConfig config = some_config();
      config.dora = config.rslora = dora;
      write_adapter(config);
      merge();
      const at::Tensor expected = logits(model_, adapter_);
      expect_close(logits(out_), expected, 1e-5, "logits");
      EXPECT_GT(testing::relative_error(logits(model_), expected), 1e-2) << "an adapter without effect";
      EXPECT_EQ(test::read_file(out_ / "config.json"), test::read_file(model_ / "config.json"));
      EXPECT_EQ(test::read_file(out_ / "tokenizer.json"), test::read_file(model_ / "tokenizer.json"));
      EXPECT_EQ(ModelConfig::read(out_).liger.has_value(), liger);
      EXPECT_NO_THROW(verify_manifest(out_));
    }
  }
}

TEST_F(Merge, SumsInFloat32AndRoundsOnce) {
  test::write_model_folder(model_);
  to_bfloat16();
  for (const bool dora : {false, true}) {
    LoraConfig config = some_config();
    config.dora = dora;
    write_adapter(config);
    merge({.shard_size = 8000});
    EXPECT_GT(WeightFiles(out_).files().size(), 3u);
    LoadOptions with_adapter;
    with_adapter.adapter = adapter_;
    const auto adapted = CausalLM::load(model_, with_adapter), merged = CausalLM::load(out_);
    const auto modules = adapted->named_modules();
    size_t changed = 0;
    for (const auto& item : merged->named_parameters()) {
      const std::string path = item.key().substr(0, item.key().rfind('.'));
      const auto* linear = modules[path]->as<Linear>();
      at::Tensor expected = adapted->named_parameters()[item.key()].detach();
      if (linear != nullptr && linear->has_lora()) {
        const at::NoGradGuard no_grad;
        const at::Tensor sum = merged_rows(expected, 0, linear->lora_a(), linear->lora_b(), linear->lora_scale(),
                                           linear->lora_magnitude());
        ASSERT_EQ(sum.scalar_type(), at::kFloat);
        expected = sum.to(at::kBFloat16);
        ++changed;
      }
      EXPECT_EQ(item.value().scalar_type(), at::kBFloat16);
      EXPECT_TRUE(item.value().equal(expected)) << item.key();
    }
    EXPECT_EQ(changed, 13u);  // seven in two layers, but one
  }
}

// A matrix of more numbers than are read at a time, whose rows do not end where a piece would.
TEST_F(Merge, LargeWeightsInPieces) {
  ModelConfig config = test::random_config(64);
  config.num_hidden_layers = 1;
  config.hidden_size = 1030;
  config.intermediate_size = 2100;
  config.stored_dtype = "float32";
  fs::create_directories(model_);
  test::random_model(config)->save_weights(model_ / "model.safetensors");
  test::write_file(model_ / "config.json", config.to_json().dump());
  write_adapter({.r = 2, .alpha = 3, .targets = {.names = {"up_proj", "down_proj"}}, .dora = true});
  const ConvertPlan plan = merge();
  EXPECT_GT(plan.peak_memory_bytes, uint64_t{32} << 20);
  LoadOptions with_adapter;
  with_adapter.adapter = adapter_;
  const auto adapted = CausalLM::load(model_, with_adapter), merged = CausalLM::load(out_);
  for (const char* path : {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"}) {
    const auto* linear = adapted->named_modules()[path]->as<Linear>();
    const at::NoGradGuard no_grad;
    expect_close(merged->named_parameters()[std::string(path) + ".weight"],
                 merged_rows(linear->weight, 0, linear->lora_a(), linear->lora_b(), linear->lora_scale(),
                             linear->lora_magnitude()),
                 1e-6, path);
  }
}

TEST_F(Merge, AnotherTypeAndTheCard) {
  test::write_model_folder(model_);
  write_adapter(some_config());
  merge({.dtype = Dtype::kBF16});
  EXPECT_EQ(ModelConfig::read(out_).stored_dtype, "bfloat16");
  EXPECT_EQ(logits(out_).scalar_type(), at::kBFloat16);
  const std::string card = test::read_file(out_ / "README.md");
  for (const char* text : {"model with the LoRA adapter `adapter` merged into its weights", "13 weights are",
                           "bfloat16", "| adapter `adapter` |"}) {
    EXPECT_NE(card.find(text), std::string::npos) << text << "\n" << card;
  }
  EXPECT_EQ(card.find("Not fine-tuned"), std::string::npos);
}

TEST_F(Merge, TheToolTellsWhatRoundingChanged) {
  test::write_model_folder(model_);
  write_adapter(some_config());
  const auto result = run({"--merge", adapter_.string(), "--out", out_.string(), "--json", "-q"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json probe = Json::parse(result.out)["probe"];
  EXPECT_GT(probe["tokens"], 10);
  EXPECT_EQ(probe["same_choice"], probe["tokens"]);
  EXPECT_LE(probe["largest_change"].get<double>(), 1e-5 * probe["largest_logit"].get<double>());

  to_bfloat16();
  const auto rounded =
      run({"--merge", adapter_.string(), "--out", out_.string(), "--json", "--overwrite", "--probe", "mill"});
  ASSERT_EQ(rounded.exit_code, 0) << rounded.err;
  EXPECT_GT(Json::parse(rounded.out)["probe"]["largest_change"].get<double>(), 1e-4);
  const auto text = run({"--merge", adapter_.string(), "--out", out_.string(), "--overwrite", "--dry-run"});
  EXPECT_NE(text.out.find("rewrite"), std::string::npos) << text.out;
  const auto none = run({"--merge", adapter_.string(), "--out", out_.string(), "--overwrite", "--probe", ""});
  EXPECT_EQ(none.exit_code, 0) << none.err;
  EXPECT_EQ(none.out.find("probe"), std::string::npos) << none.out;
  const auto both = run({"--merge", adapter_.string(), "--out", out_.string(), "--overwrite"});
  EXPECT_NE(both.out.find("merging changed a logit by"), std::string::npos) << both.out;
}

TEST_F(Merge, WhatCannotBeIsRefusedAndNothingIsLeft) {
  test::write_model_folder(model_);
  write_adapter(some_config());
  const auto refuse = [&](int code, const std::string& text, const std::vector<std::string>& arguments) {
    const auto before = test::listing(folder_.path());
    const auto result = run(arguments);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(test::listing(folder_.path()), before);
  };
  const std::string adapter = adapter_.string(), out = out_.string();
  refuse(2, "--arch, --merge or --untie is required", {"--out", out});
  refuse(2, "--arch", {"--merge", adapter, "--arch", "gla", "--out", out});
  refuse(2, "--window has no meaning with --merge", {"--merge", adapter, "--window", "9", "--out", out});
  refuse(2, "--probe", {"--arch", "gla", "--probe", "a", "--out", out});
  refuse(2, "is the adapter itself", {"--merge", adapter, "--out", adapter, "--overwrite"});
  refuse(3, "no adapter_config.json", {"--merge", model_.string(), "--out", out});

  Json config = read_json(adapter_ / "adapter_config.json");
  config["r"] = 4;
  test::write_file(adapter_ / "adapter_config.json", config.dump());
  refuse(3, "tensors do not fit the model", {"--merge", adapter, "--out", out});
  config["rank_pattern"] = {{"(((a+)+)+", 4}};
  test::write_file(adapter_ / "adapter_config.json", config.dump());
  refuse(3, "regular expression", {"--merge", adapter, "--out", out});

  write_adapter({.r = 2, .targets = {.names = {"q_proj"}}});
  std::map<std::string, at::Tensor> huge;
  for (const auto& [name, tensor] : load_tensors(adapter_ / "adapter_model.safetensors"))
    huge[name] = at::full_like(tensor, 1e30);
  save_tensors(adapter_ / "adapter_model.safetensors", huge);
  refuse(3, "q_proj.weight': merged, it holds values that are not finite", {"--merge", adapter, "--out", out});
  fs::remove(model_ / "tokenizer.json");
  write_adapter(some_config());
  refuse(3, "--probe (give '' for none)", {"--merge", adapter, "--out", out});
}

}  // namespace
}  // namespace liger
