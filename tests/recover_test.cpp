// Recovery: numbers of heads found by calibration, kept in config.json and adapters, trained, merged; distillation.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include "liger/convert/calibration_text.h"
#include "liger/convert/convert.h"
#include "liger/core/checkpoint.h"
#include "liger/nn/calibrate.h"
#include "liger/nn/lora.h"
#include "liger/nn/step_decoder.h"
#include "liger/ops/linear_distillation.h"
#include "liger/train/trainer.h"
#include "random_model.h"
#include "tensor_testing.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::recommended;
using testing::expect_close;

std::vector<Sequences> random_text(int64_t vocab) {
  std::vector<Sequences> batches;
  for (int batch = 0; batch < 2; ++batch) {
    std::vector<std::vector<int64_t>> documents;
    for (const int64_t length : {40, 23}) {
      const at::Tensor ids = at::randint(vocab, {length}, at::kLong);
      documents.emplace_back(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + length);
    }
    batches.emplace_back(documents);
  }
  return batches;
}

std::shared_ptr<CausalLM> with_layers(const CausalLM& teacher, const LigerConfig& liger) {
  ModelConfig config = teacher.config();
  config.liger = liger;
  const auto model = test::random_model(config);
  const auto weights = teacher.named_parameters();
  const at::NoGradGuard no_grad;
  for (auto& item : model->named_parameters())
    if (!is_mixer(item.key())) item.value().copy_(weights[item.key()]);
  return model;
}

// Whatever the mixer, the layers come closer than their windows alone and than without their numbers.
TEST(Calibration, ComesCloserThanTheWindowAlone) {
  const auto teacher = test::random_model(test::random_config(50));
  at::manual_seed(1);
  const auto text = random_text(50);
  LigerConfig plain{.recurrence = "gla", .window = 5}, delta{.recurrence = "gated-deltanet", .window = 5}, own = plain;
  delta.beyond_window = true;
  own.features = FeatureMap::kSoftmaxPair;
  own.normalizer = Normalizer::kOwn;
  for (const LigerConfig& wanted : {recommended(), plain, delta, own}) {
    SCOPED_TRACE(to_json(wanted).dump());
    const Calibration found = calibrate(*teacher, wanted, text, {.steps = 30});
    EXPECT_EQ(found.tokens, 126);
    ASSERT_EQ(found.layers.size(), 2);
    for (const LayerFit& fit : found.layers) {
      EXPECT_GT(fit.after, fit.window) << "layer " << fit.layer;
      EXPECT_GT(fit.after, fit.before) << "layer " << fit.layer;
    }
    validate(found.liger, teacher->config(), "calibrated");
    const double after = compare(*with_layers(*teacher, found.liger), *teacher, text).divergence;
    // The numbers of config.json are the numbers of the model, whatever they are written as.
    const LigerConfig read = liger_config_from_json(Json::parse(to_json(found.liger).dump()), "config.json");
    EXPECT_EQ(compare(*with_layers(*teacher, read), *teacher, text).divergence, after);
  }
}

TEST(Calibration, IsTheSameEachTime) {
  const auto teacher = test::random_model(test::random_config(50));
  at::manual_seed(1);
  const auto text = random_text(50);
  const auto find = [&] { return calibrate(*teacher, recommended(), text, {.steps = 4}).liger; };
  EXPECT_EQ(find(), find());
}

TEST(Calibration, LeavesSoftmaxLayersAlone) {
  const auto teacher = test::random_model(test::random_config(50));
  LigerConfig wanted = recommended();
  wanted.softmax_layers = {1};
  const Calibration found = calibrate(*teacher, wanted, random_text(50), {.steps = 1});
  EXPECT_EQ(found.layers.size(), 1);
  EXPECT_TRUE(found.liger.heads.at(kLogGate)[1].empty());
  validate(found.liger, teacher->config(), "calibrated");
}

TEST(Calibration, GivesEachLayerTheFeaturesThatExplainMost) {
  const auto teacher = test::random_model(test::random_config(50));
  at::manual_seed(1);
  const auto text = random_text(50);
  const std::vector<FeatureMap> maps = {FeatureMap::kExpPair, FeatureMap::kSoftmaxPair, FeatureMap::kSoftmax};
  const Calibration found = calibrate(*teacher, recommended(), text, {.steps = 2, .features = maps});
  std::vector<Calibration> each;
  for (const FeatureMap map : maps) {
    LigerConfig wanted = recommended();
    wanted.features = map;
    each.push_back(calibrate(*teacher, wanted, text, {.steps = 2}));
  }
  for (size_t layer = 0; layer < 2; ++layer) {
    const auto chosen = std::find(maps.begin(), maps.end(), *found.layers[layer].features) - maps.begin();
    EXPECT_EQ(found.layers[layer].after, each[chosen].layers[layer].after);
    for (const Calibration& one : each) EXPECT_GE(found.layers[layer].after, one.layers[layer].after);
    EXPECT_EQ(found.liger.features_of(static_cast<int64_t>(layer)), maps[chosen]);
  }
  validate(found.liger, teacher->config(), "calibrated");
}

// A model compared with itself has the loss of its logits, and nothing between them.
TEST(Compare, IsOfTheLogits) {
  const auto model = test::random_model(test::random_config(50));
  const auto text = random_text(50);
  const ModelGap gap = compare(*model, *model, text);
  EXPECT_NEAR(gap.divergence, 0, 1e-6);
  EXPECT_EQ(gap.largest, 0);
  const at::NoGradGuard no_grad;
  double loss = 0;
  int64_t tokens = 0;
  for (const Sequences& batch : text) {
    const at::Tensor all = at::log_softmax(model->logits(model->hidden_states(batch)), 1);
    int64_t start = 0;
    for (const int64_t length : batch.lengths()) {
      const at::Tensor targets = batch.ids().narrow(0, start + 1, length - 1);
      loss += at::nll_loss(all.narrow(0, start, length - 1), targets, {}, at::Reduction::Sum).item<double>();
      tokens += length - 1;
      start += length;
    }
  }
  EXPECT_NEAR(gap.loss, loss / static_cast<double>(tokens), 1e-5);
}

// Decoding token by token with numbers of heads and a state beyond the window is the forward pass.
TEST(Numbers, DecodeAsTheyRun) {
  const auto teacher = test::random_model(test::random_config(50));
  at::manual_seed(1);
  const auto text = random_text(50);
  LigerConfig mixed = calibrate(*teacher, recommended(), text, {.steps = 2}).liger;
  mixed.features.reset();
  mixed.layer_features = {FeatureMap::kSoftmax, FeatureMap::kExpPair};  // states of two sizes
  for (const LigerConfig& liger : {calibrate(*teacher, recommended(), text, {.steps = 2}).liger, mixed}) {
    const auto model = with_layers(*teacher, liger);
    const at::NoGradGuard no_grad;
    const at::Tensor ids = text[0].ids().narrow(0, 0, 40);
    const at::Tensor whole = model->logits(model->hidden_states(Sequences::from_padded(ids.unsqueeze(0))));
    StepDecoder decoder(*model, 1);
    DecodingState state;
    for (int64_t t = 0; t < 40; ++t) {
      const int64_t id = ids[t].item<int64_t>();
      expect_close(decoder.step({&id, 1}, state)[0], whole[t], 1e-5, cat("token ", t).c_str());
    }
  }
}

TEST(Distillation, IsItsFormula) {
  const at::Tensor x = at::randn({6, 4}, at::kDouble), head = at::randn({9, 4}, at::kDouble);
  const at::Tensor y = at::randn({6, 5}, at::kDouble), teacher = at::randn({9, 5}, at::kDouble);
  const at::Tensor targets = at::randint(9, {6}, at::kLong);
  const double weight = 0.3, T = 2.0;
  const at::Tensor s = x.mm(head.t()), t = y.mm(teacher.t());
  const at::Tensor p = at::log_softmax(s / T, 1), q = at::log_softmax(t / T, 1);
  const at::Tensor expected = weight * T * T * (q.exp() * (q - p)).sum() -
                              (1 - weight) * at::log_softmax(s, 1).gather(1, targets.unsqueeze(1)).sum();
  expect_close(linear_distillation(x, head, y, teacher, targets, {weight, T}), expected, 1e-12, "loss");
  expect_close(linear_distillation(x, head, x, head, targets, {1.0, T}), at::zeros({}, at::kDouble), 1e-12, "itself");
  const at::Tensor m = (p.exp() + q.exp()) / 2;
  const std::pair<Divergence, at::Tensor> others[] = {
      {Divergence::kReverse, (p.exp() * (p - q)).sum()},
      {Divergence::kJensenShannon, (p.exp() * (p - m.log()) + q.exp() * (q - m.log())).sum() / 2},
      {Divergence::kTotalVariation, (p.exp() - q.exp()).abs().sum() / 2}};
  for (const auto& [divergence, value] : others) {
    expect_close(linear_distillation(x, head, y, teacher, targets, {1.0, T, divergence}), T * T * value, 1e-12,
                 "other");
    expect_close(linear_distillation(x, head, x, head, targets, {1.0, T, divergence}), at::zeros({}, at::kDouble),
                 1e-12, "itself");
  }
}

class Recover : public ::testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "base", /*liger=*/false);
    test::write_text_rows(folder_ / "rows.jsonl", 40);
    CalibrationText text{.file = folder_ / "rows.jsonl", .tokens = 600, .length = 64};
    const auto tokenizer = Tokenizer::load(folder_ / "base");
    const auto teacher = CausalLM::load(folder_ / "base");
    LigerConfig wanted = recommended();
    ConvertOptions convert{.model = folder_ / "base", .arch = wanted.recurrence, .out = folder_ / "model"};
    convert.liger = calibrate(*teacher, wanted, read_calibration_text(text, *tokenizer), {.steps = 3}).liger;
    run_conversion(plan_conversion(convert));
  }
  FinetuneResult train(const std::string& run, std::vector<std::string> assignments = {}) {
    return Trainer(test::read_options(test::tiny_run(folder_.path(), run), assignments)).run();
  }
  at::Tensor logits(const fs::path& model, const fs::path& adapter = {}) const {
    const at::NoGradGuard no_grad;
    LoadOptions options;
    options.adapter = adapter;
    const auto loaded = CausalLM::load(model, options);
    at::manual_seed(3);
    return loaded->logits(loaded->hidden_states(Sequences::from_padded(at::randint(258, {1, 40}, at::kLong))));
  }
  test::TemporaryFolder folder_;
};

// The tool does all of it, and says what it found.
TEST_F(Recover, IsOneOptionOfTheTool) {
  const auto convert = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--model", folder_ / "base", "--out", folder_ / "tool", "--window", "5", "--json"});
    return test::run_tool("liger-convert", more);
  };
  const std::string rows = folder_ / "rows.jsonl";
  const test::CommandResult made = convert({"--arch", "gated-retention", "--calibrate", rows, "--calibrate-tokens",
                                            "300", "--calibrate-length", "64", "--calibrate-steps", "3"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const Json found = Json::parse(made.out)["calibration"];
  EXPECT_EQ(found["tokens"], 300);
  ASSERT_EQ(found["explained"].size(), 2);
  for (const Json& layer : found["explained"]) EXPECT_GE(layer["after"], layer["window"]);
  EXPECT_EQ(found["teacher"]["divergence"].get<double>() < 1e-5, true);
  const ModelConfig config = ModelConfig::read(folder_ / "tool");
  EXPECT_TRUE(config.liger->beyond_window && config.liger->rope_features && config.liger->shares_normalizer());
  EXPECT_EQ(config.liger->sinks, 8);
  EXPECT_EQ(config.liger->heads.at(kQueryScale).size(), 2);
  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& text) {
    const test::CommandResult result = convert(arguments);
    EXPECT_EQ(result.exit_code, 2) << text;
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
  };
  refused({"--arch", "gla", "--calibrate", rows, "--mix", "0.3"}, "--mix has no meaning with --calibrate");
  refused({"--arch", "swa", "--calibrate", rows}, "expected a recurrence and a window");
  refused({"--arch", "gla", "--calibrate-steps", "3"}, "--calibrate-steps has no meaning without --calibrate");
  refused({"--arch", "gla", "--features", "exp-pair,softmax"}, "nothing chooses among 2");
  const test::CommandResult several =
      convert({"--arch", "gla", "--calibrate", rows, "--calibrate-tokens", "300", "--calibrate-steps", "0",
               "--features", "softmax-pair,exp-pair", "--gate-divisor", "8", "--overwrite"});
  ASSERT_EQ(several.exit_code, 0) << several.err;
  EXPECT_TRUE(ModelConfig::read(folder_ / "tool").liger->shares_normalizer());
  const test::CommandResult negative = convert(
      {"--arch", "gla", "--calibrate", rows, "--features", "softmax,identity", "--normalizer", "own", "--overwrite"});
  EXPECT_NE(negative.exit_code, 0);
  EXPECT_NE(negative.err.find("features are not negative"), std::string::npos) << negative.err;
  refused({"--arch", "gsa", "--features", "exp-pair"}, "gsa has no features to choose");
}

const std::vector<std::string> kRecipe = {"lora.targets=[q_proj, k_proj, v_proj, o_proj]", "lora.mixer=true",
                                          "lora.mixer_ratio=5", "distill.weight=0.5"};

TEST_F(Recover, LearnsFromTheTeacherAndKeepsItsNumbers) {
  const FinetuneResult result = train("run", kRecipe);
  EXPECT_LT(*result.eval_loss, *result.first_eval_loss);
  const Adapter adapter = read_adapter(folder_ / "run" / "final", ModelConfig::read(folder_ / "model"));
  EXPECT_TRUE(adapter.config.mixer);
  ASSERT_EQ(adapter.saved.size(), 2);
  const at::Tensor before = logits(folder_ / "model"), after = logits(folder_ / "model", folder_ / "run" / "final");
  EXPECT_FALSE(before.allclose(after));
  // Merged, the numbers are in config.json.
  ConvertOptions merge{
      .model = folder_ / "model", .arch = "", .merge = folder_ / "run" / "final", .out = folder_ / "merged"};
  run_conversion(plan_conversion(merge));
  expect_close(logits(folder_ / "merged"), after, 1e-5, "merged");
  EXPECT_NE(ModelConfig::read(folder_ / "merged").liger->heads, ModelConfig::read(folder_ / "model").liger->heads);
}

// A run stopped and taken up again is the run.
TEST_F(Recover, ResumesExactly) {
  train("whole", kRecipe);
  std::vector<std::string> half = kRecipe;
  half.push_back("train.max_steps=3");
  half.push_back("train.scheduler=constant");
  std::vector<std::string> all = kRecipe;
  all.push_back("train.scheduler=constant");
  train("straight", all);
  train("parts", half);
  train("parts", all);
  EXPECT_EQ(test::slurp(folder_ / "parts" / "final" / "adapter_model.safetensors"),
            test::slurp(folder_ / "straight" / "final" / "adapter_model.safetensors"));
}

// Training all parameters trains the numbers too, and they come out where they went in.
TEST_F(Recover, TrainsNumbersWithAllParameters) {
  train("full", {"lora=null", "train.lr=1e-3", "distill.weight=1"});
  const auto then = ModelConfig::read(folder_ / "model").liger->heads;
  const auto now = ModelConfig::read(folder_ / "full" / "final").liger->heads;
  EXPECT_NE(then, now);
  EXPECT_EQ(now.size(), then.size());
}

TEST_F(Recover, NumbersNeedLayersThatHaveThem) {
  const auto model = CausalLM::load(folder_ / "base");
  LoraConfig config;
  config.mixer = true;
  EXPECT_THROW(add_lora(*model, config), Error);
}

// The teacher costs no memory: its weights are the model's.
TEST_F(Recover, TheTeacherIsInTheModelsMemory) {
  const auto model = CausalLM::load(folder_ / "model");
  const auto teacher = model->teacher();
  const auto weights = model->named_parameters();
  for (const auto& item : teacher->named_parameters())
    EXPECT_EQ(item.value().const_data_ptr(), weights[item.key()].const_data_ptr()) << item.key();
  const at::NoGradGuard no_grad;
  at::manual_seed(3);
  const Sequences tokens = Sequences::from_padded(at::randint(258, {1, 40}, at::kLong));
  EXPECT_TRUE(teacher->logits(teacher->hidden_states(tokens)).equal(logits(folder_ / "base")));
}

TEST(CalibrationText, ReadsWhatIsThere) {
  const test::TemporaryFolder folder;
  test::write_byte_tokenizer(folder.path());
  const auto tokenizer = Tokenizer::load(folder.path());
  const auto lengths = [&](const std::string& name, const std::string& content, int64_t tokens) {
    write_text_atomic(folder / name, content);
    std::vector<int64_t> all;
    for (const Sequences& batch : read_calibration_text({folder / name, tokens, 4, 8}, *tokenizer))
      all.insert(all.end(), batch.lengths().begin(), batch.lengths().end());
    return all;
  };
  using Lengths = std::vector<int64_t>;
  EXPECT_EQ(lengths("a.txt", "0123456789", 100), (Lengths{4, 4, 2}));
  EXPECT_EQ(lengths("b.txt", "0123456789", 6), (Lengths{4, 2}));
  EXPECT_EQ(lengths("c.jsonl", "{\"text\": \"012\", \"x\": \"y\"}\n{\"text\": \"345\"}\n", 100), (Lengths{4, 2}));
  EXPECT_EQ(lengths("d.json", "[{\"instruction\": \"01\", \"n\": 3, \"output\": [\"2\"]}]", 100), (Lengths{4}));
  EXPECT_THROW(lengths("e.txt", "", 100), Error);
  EXPECT_THROW(lengths("f.jsonl", "{}\n", 100), Error);
}

}  // namespace
}  // namespace liger
