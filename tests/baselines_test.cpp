// What the paper's ablations and LoLCATs do otherwise: gates of another source than the key, learned features, and
// training on what attention writes.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include "liger/convert/calibration_text.h"
#include "liger/convert/convert.h"
#include "liger/nn/attention_error.h"
#include "liger/nn/calibrate.h"
#include "liger/nn/lora.h"
#include "liger/nn/step_decoder.h"
#include "liger/train/trainer.h"
#include "random_model.h"
#include "tensor_testing.h"
#include "train_test_util.h"

namespace liger {
namespace {

using test::recommended;
using testing::expect_close;

Sequences random_text(int64_t tokens) { return Sequences::from_padded(at::randint(50, {1, tokens}, at::kLong)); }

at::Tensor logits(CausalLM& model, const Sequences& text) {
  const at::NoGradGuard no_grad;
  return model.logits(model.hidden_states(text));
}

at::Tensor& parameter(CausalLM& model, int layer, const char* name) {
  return model.named_parameters()[cat("model.layers.", layer, ".self_attn.", name)];
}

// Read token by token from a state, whatever gives the gate and the features.
TEST(Baselines, DecodeAsTheyRun) {
  for (LigerConfig liger : {LigerConfig{.window = 5}, recommended()})
    for (const GateSource gate : {GateSource::kKey, GateSource::kQuery, GateSource::kValue, GateSource::kRandom})
      for (const bool learned : {false, true}) {
        liger.gate = gate;
        liger.learned_features = learned;
        SCOPED_TRACE(to_json(liger).dump());
        const auto model = test::random_model(test::random_config(50, liger));
        const at::NoGradGuard no_grad;
        for (auto& item : model->named_parameters())
          if (item.key().ends_with("_map")) item.value().normal_(0, 0.3);
        const Sequences text = random_text(30);
        const at::Tensor whole = logits(*model, text);
        DecodingState state;
        int64_t seen = 0;
        for (const int64_t length : {7, 1, 1, 1, 12, 8}) {
          const Sequences part = Sequences::from_padded(text.ids().narrow(0, seen, length).unsqueeze(0));
          expect_close(model->logits(model->hidden_states(part, &state)), whole.narrow(0, seen, length), 1e-4, "part");
          seen += length;
        }
        EXPECT_EQ(StepDecoder::supports(*model), liger.is_compiled());
      }
}

// Where a value is a key, and the queries of a group are on average their key, it does not matter which is the gate.
TEST(Baselines, GatesAreReadFromWhatTheyAreNamedAfter) {
  LigerConfig liger{.window = 5};
  const auto model = test::random_model(test::random_config(50, liger));
  const at::NoGradGuard no_grad;
  for (int layer = 0; layer < 2; ++layer) {
    const at::Tensor key = parameter(*model, layer, "k_proj.weight"), half = at::randn({2, 1, 8, 32});
    parameter(*model, layer, "v_proj.weight").copy_(key);
    const at::Tensor queries = at::cat({key.view({2, 1, 8, 32}) - half, key.view({2, 1, 8, 32}) + half}, 1);
    parameter(*model, layer, "q_proj.weight").copy_(queries.reshape({32, 32}));
  }
  const Sequences text = random_text(40);
  const auto with_gate = [&](GateSource gate) {
    liger.gate = gate;
    const auto other = test::random_model(test::random_config(50, liger));
    for (auto& item : other->named_parameters())
      if (!is_mixer(item.key())) item.value().copy_(model->named_parameters()[item.key()]);
    return logits(*other, text);
  };
  const at::Tensor expected = logits(*model, text);
  expect_close(with_gate(GateSource::kQuery), expected, 1e-5, "query");
  expect_close(with_gate(GateSource::kValue), expected, 1e-5, "value");
  EXPECT_GT((with_gate(GateSource::kRandom) - expected).abs().max().item<double>(), 1e-3);
}

// New features begin as the old ones.
TEST(Baselines, LearnedFeaturesBeginAsTheyWere) {
  LigerConfig liger = recommended();
  const Sequences text = random_text(40);
  const at::Tensor expected = logits(*test::random_model(test::random_config(50, liger)), text);
  liger.learned_features = true;
  expect_close(logits(*test::random_model(test::random_config(50, liger)), text), expected, 1e-5, "logits");
}

TEST(Baselines, RefuseWhatHasNoMeaning) {
  const auto refused = [](LigerConfig liger, const std::string& text) {
    try {
      validate(liger, "liger");
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  };
  LigerConfig ungated{.recurrence = "retnet", .gate = GateSource::kValue};
  refused(ungated, "liger: gate: retnet has none that a token decides");
  LigerConfig raw = recommended();
  raw.rope_features = false;
  raw.gate = GateSource::kQuery;
  refused(raw, "turn rope_features on");
  refused({.recurrence = "swa", .learned_features = true}, "liger: learned_features: swa has no features");
  EXPECT_THROW(gate_source_from_name("keys"), Error);
}

// The error is what calibration calls not explained, and there is none where the window holds everything.
TEST(AttentionError, IsWhatIsNotExplained) {
  const auto teacher = test::random_model(test::random_config(50));
  at::manual_seed(4);
  const Sequences text = random_text(40);
  const auto error = [&](const LigerConfig& liger) {
    const auto model = test::random_model(test::random_config(50, liger));
    const at::NoGradGuard no_grad;
    return attention_error(*model, *teacher, text).item<double>();
  };
  EXPECT_LT(error({.recurrence = "swa", .window = 40}), 1e-10);
  const Calibration fit = calibrate(*teacher, recommended(), {text}, {.steps = 0});
  EXPECT_NEAR(error(recommended()), 1 - (fit.layers[0].before + fit.layers[1].before) / 2, 1e-5);
  EXPECT_NEAR(error(fit.liger), 1 - (fit.layers[0].after + fit.layers[1].after) / 2, 1e-5);
  EXPECT_THROW(attention_error(*teacher, *teacher, text), Error);
}

// LoLCATs' way: features learned on what attention writes, then LoRA on tokens from there; kept in the adapter alone.
TEST(AttentionTransfer, IsAStageBeforeLora) {
  const test::TemporaryFolder folder;
  test::write_tiny_model(folder / "base", /*liger=*/false);
  test::write_text_rows(folder / "rows.jsonl", 40);
  ConvertOptions convert{.model = folder / "base", .arch = "linear", .out = folder / "model"};
  convert.liger = recommended();
  convert.liger.recurrence = "linear";
  convert.liger.learned_features = true;
  run_conversion(plan_conversion(convert));
  const std::vector<std::string> lora = {"lora.mixer=true", "lora.targets=[q_proj, k_proj, v_proj, o_proj]"};
  const auto train = [&](const std::string& run, std::vector<std::string> more) {
    more.insert(more.begin(), lora.begin(), lora.end());
    return Trainer(test::read_options(test::tiny_run(folder.path(), run), more)).run();
  };
  const CalibrationText first{.file = folder / "rows.jsonl", .tokens = 600, .length = 64};
  const auto text = read_calibration_text(first, *Tokenizer::load(folder / "base"));
  const auto error = [&](const std::filesystem::path& adapter) {
    LoadOptions options;
    options.adapter = adapter;
    const auto model = CausalLM::load(folder / "model", options);
    const at::NoGradGuard no_grad;
    return attention_error(*model, *model->teacher(), text[0]).item<double>();
  };
  train("transfer", {"distill.attention_steps=100"});
  const std::filesystem::path transferred = folder / "transfer" / "final";
  EXPECT_LT(error(transferred), error({}));
  const Adapter adapter = read_adapter(transferred, ModelConfig::read(folder / "model"));
  EXPECT_EQ(adapter.saved.size(), 6);
  const FinetuneResult after = train("tokens", {"model.adapter=" + transferred.string()});
  EXPECT_LT(*after.eval_loss, *after.first_eval_loss);
  ConvertOptions merge{.model = folder / "model", .arch = "", .merge = transferred, .out = folder / "merged"};
  EXPECT_THROW(plan_conversion(merge), Error);
  EXPECT_THROW(train("full", {"lora=null"}), Error);
}

}  // namespace
}  // namespace liger
