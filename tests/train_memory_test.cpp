// What --dry-run foretells of memory, against what tensors and processes take.

#include <ATen/ops/randint.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>

#include "liger/ops/linear_cross_entropy.h"
#include "torch_memory.h"
#include "train/memory_estimate.h"
#include "train/parameter_sizes.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

ModelConfig config_of(bool liger, bool tied = true) {
  ModelConfig c = test::tiny_config(liger);
  c.vocab_size = 1000;
  c.hidden_size = 128;
  c.intermediate_size = 320;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 32;
  c.tie_word_embeddings = tied;
  return c;
}

struct Case {
  const char* name;
  bool liger = true, full = false, checkpoints = false;
  at::ScalarType dtype = at::kFloat;
  LoraOptions lora = {};
  int64_t vocab = 1000, length = 384;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

LoraOptions lora_of(ModuleSelector targets, double dropout = 0, bool dora = false, std::vector<int64_t> layers = {}) {
  LoraOptions lora;
  lora.targets = std::move(targets);
  lora.dropout = dropout;
  lora.dora = dora;
  lora.layers = std::move(layers);
  return lora;
}

FinetuneOptions options_of(const Case& c) {
  FinetuneOptions options;
  if (c.full)
    options.lora.reset();
  else
    options.lora = c.lora;
  options.model.dtype = c.dtype == at::kFloat ? "f32" : "bf16";
  if (c.checkpoints) options.train.activation_checkpointing = ActivationCheckpointing::kFull;
  return options;
}

std::shared_ptr<CausalLM> model_of(const ModelConfig& config, const Case& c) {
  auto model = std::make_shared<CausalLM>(config, at::TensorOptions(c.dtype));
  if (c.full) {
    for (at::Tensor& parameter : model->parameters()) parameter.set_requires_grad(true);
  } else {
    add_lora(*model, c.lora);
  }
  model->checkpoint_layers(c.checkpoints);
  model->train();
  return model;
}

class Memory : public testing::TestWithParam<Case> {};

TEST_P(Memory, OfTensorsIsAsForetold) {
  const Case& c = GetParam();
  ModelConfig config = config_of(c.liger);
  config.vocab_size = c.vocab;
  const UpdateShape shape{.rows = 2, .length = c.length};
  const MemoryEstimate expected = estimate_memory(config, options_of(c), shape, /*process=*/0);
  const auto model = model_of(config, c);
  const at::Tensor ids = at::randint(config.vocab_size, {shape.rows, shape.length}, at::kLong);
  const Sequences tokens = Sequences::from_padded(ids);
  const auto update = [&] {
    const at::Tensor hidden = model->hidden_states(tokens);
    linear_cross_entropy(hidden, model->head_weight(), ids.flatten()).div(7.0).backward();
  };
  int64_t kept = 0, peak = 0;
  {
    const test::TorchMemory memory;
    const at::Tensor hidden = model->hidden_states(tokens);
    kept = memory.live();
  }
  {
    const test::TorchMemory memory;
    update();
    peak = memory.peak();
  }
  EXPECT_NEAR(static_cast<double>(expected.activations) / static_cast<double>(kept), 1, 0.03);
  const int64_t held = expected.weights + expected.adapters + expected.moments;
  EXPECT_NEAR(static_cast<double>(expected.peak - held) / static_cast<double>(peak), 1, 0.1) << expected.peak_at;
}

const ModuleSelector kQkv = {.names = {"q_proj", "k_proj", "v_proj"}};
const ModuleSelector kAll = {.names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
INSTANTIATE_TEST_SUITE_P(
    All, Memory,
    testing::Values(Case{.name = "lora"}, Case{.name = "softmax", .liger = false},
                    Case{.name = "bfloat16", .dtype = at::kBFloat16},
                    Case{.name = "softmax_bfloat16", .liger = false, .dtype = at::kBFloat16},
                    Case{.name = "all_linear", .lora = lora_of(kAll)},
                    Case{.name = "dropout", .lora = lora_of(kQkv, 0.1)},
                    Case{.name = "dropout_bfloat16", .dtype = at::kBFloat16, .lora = lora_of(kAll, 0.1)},
                    Case{.name = "dora", .lora = lora_of(kQkv, 0, true)},
                    Case{.name = "dora_dropout", .lora = lora_of(kAll, 0.1, true)},
                    Case{.name = "layer_2", .lora = lora_of(kQkv, 0, false, {2})},
                    Case{.name = "down_proj_of_layer_1", .lora = lora_of({.names = {"down_proj"}}, 0, false, {1})},
                    Case{.name = "checkpoints", .checkpoints = true},
                    Case{.name = "checkpoints_layer_2", .checkpoints = true, .lora = lora_of(kQkv, 0, false, {2})},
                    Case{.name = "full", .full = true}, Case{.name = "full_softmax", .liger = false, .full = true},
                    Case{.name = "full_checkpoints", .full = true, .checkpoints = true},
                    Case{.name = "full_large_vocabulary", .full = true, .vocab = 30000, .length = 16}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ParameterSizes, AreTheModels) {
  for (const bool tied : {true, false}) {
    ModelConfig config = config_of(true, tied);
    config.attention_bias = config.mlp_bias = tied;
    LoraOptions lora = lora_of({.regex = "all-linear"}, 0, tied);
    lora.rank_pattern = {{"o_proj", 3}};
    for (const bool full : {true, false}) {
      const auto model = model_of(config, {.name = "", .full = full, .lora = lora});
      int64_t all = 0, trained = 0;
      for (const at::Tensor& parameter : model->parameters()) {
        all += parameter.numel();
        if (parameter.requires_grad()) trained += parameter.numel();
      }
      const ParameterSizes sizes(config, full ? std::optional<LoraConfig>() : lora);
      EXPECT_EQ(sizes.model() + sizes.adapters(), all) << tied << full;
      EXPECT_EQ(sizes.trained(), trained) << tied << full;
    }
  }
}

class DryRunTool : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 4000; ++i) text += static_cast<char>('a' + i * i % 26);
    write_text_atomic(folder_ / "rows.jsonl", OrderedJson{{"text", text}}.dump() + "\n");
  }
  void write_model(const ModelConfig& config, bool weights) {
    fs::create_directories(folder_ / "model");
    write_text_atomic(folder_ / "model" / "config.json", config.to_json().dump());
    test::write_byte_tokenizer(folder_ / "model");
    if (weights) CausalLM(config).save_weights(folder_ / "model" / "model.safetensors");
  }
  Json run(std::vector<std::string> arguments) {
    write_text_atomic(
        folder_ / "run.yaml",
        cat("model: {path: ", (folder_ / "model").string(), "}\ndata: {train: ", (folder_ / "rows.jsonl").string(),
            ", val_size: 0, format: text, max_length: 256, "
            "over_length: split}\ntrain: {max_steps: 2, batch_size: 4, micro_batch_size: 4, scheduler: "
            "constant}\nsave: {dir: ",
            (folder_ / "run").string(), "}\n"));
    arguments.insert(arguments.begin(), {(folder_ / "run.yaml").string(), "--json", "--threads", "1"});
    const test::CommandResult result = test::run_tool("liger-finetune", arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.exit_code == 0 ? parse_json(result.out, "stdout") : Json();
  }

  test::TemporaryFolder folder_;
};

TEST_F(DryRunTool, ForetellsThePeakOfARun) {
  ModelConfig config = config_of(true);
  config.vocab_size = 8000;
  config.hidden_size = 256;
  config.intermediate_size = 768;
  config.num_attention_heads = config.num_key_value_heads = 8;
  config.num_hidden_layers = 6;
  write_model(config, true);
  const Json plan = run({"--dry-run=plan"}), result = run({});
  ASSERT_FALSE(HasFailure());
  EXPECT_TRUE(plan["seconds_per_step"].is_null());
  const double ratio = plan["memory"]["peak_bytes"].get<double>() / result["peak_memory_bytes"].get<double>();
  EXPECT_NEAR(ratio, 1, 0.15) << plan["memory"].dump(1) << result.dump(1);
  const Json step = run({"--dry-run"});
  EXPECT_NEAR(step["peak_memory_bytes"].get<double>() / result["peak_memory_bytes"].get<double>(), 1, 0.1);
}

TEST_F(DryRunTool, AnswersForEightBillionParametersWithoutThem) {
  ModelConfig config = test::tiny_config(false);
  config.vocab_size = 128256;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.num_key_value_heads = 8;
  config.head_dim = 128;
  config.stored_dtype = "bfloat16";
  write_model(config, false);
  const auto begin = std::chrono::steady_clock::now();
  const Json plan = run({"--dry-run", "--set", "model.attention=liger_gla"});
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  ASSERT_FALSE(HasFailure());
  const int64_t q = 8 * (4096 + 4096), kv = 8 * (4096 + 1024);
  EXPECT_EQ(plan["trained_parameters"], 32 * (q + 2 * kv));
  EXPECT_EQ(plan["parameters"], int64_t{8030261248} + 32 * (q + 2 * kv));
  EXPECT_EQ(plan["memory"]["weights_bytes"], int64_t{8030261248} * 2);
  EXPECT_EQ(plan["checkpoint_bytes"], 3 * 4 * 32 * (q + 2 * kv));
  EXPECT_GT(plan["memory"]["peak_bytes"], plan["memory"]["weights_bytes"]);
  rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  EXPECT_LT(usage.ru_maxrss, 500 * 1000);  // KiB
  EXPECT_LT(seconds.count(), 60);
}

}  // namespace
}  // namespace liger
