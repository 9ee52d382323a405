// Training models whose layers are tied: everything, or their adapters alone; from a teacher, and with early exits.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>

#include "io_test_util.h"
#include "liger/convert/convert.h"
#include "liger/nn/attention_error.h"
#include "liger/nn/lora.h"
#include "liger/train/trainer.h"
#include "tensor_testing.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using testing::expect_close;

class TrainTied : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelConfig config = test::tiny_config(/*liger=*/false);
    config.num_hidden_layers = 4;
    fs::create_directories(teacher_);
    at::manual_seed(7);
    CausalLM(config).save_weights(teacher_ / "model.safetensors");
    write_text_atomic(teacher_ / "config.json", config.to_json().dump(2));
    test::write_byte_tokenizer(teacher_);
    test::write_text_rows(folder_ / "rows.jsonl", 40);
    tie({.norms = TieNorms::kDepth, .rank = 3});
  }
  void tie(const TieOptions& options, const std::string& arch = "") {
    fs::remove_all(folder_ / "model");
    run_conversion(plan_conversion({.model = teacher_, .arch = arch, .tie = options, .out = folder_ / "model"}));
  }
  FinetuneResult train(const std::string& run, std::vector<std::string> assignments) {
    return Trainer(test::read_options(test::tiny_run(folder_.path(), run), assignments)).run();
  }
  std::string refusal(std::vector<std::string> assignments) {
    return test::error_of([&] { train("refused", std::move(assignments)); }).what();
  }
  std::map<std::string, at::Tensor> weights(const fs::path& dir, const fs::path& adapter = {}) {
    LoadOptions load;
    load.adapter = adapter;
    std::map<std::string, at::Tensor> out;
    const auto model = CausalLM::load(dir, load);
    for (const auto& item : model->named_parameters()) out[item.key()] = item.value().detach().clone();
    return out;
  }
  // Which of a model's parameters differ: weights, pairs and norms.
  struct Changed {
    bool shared = false, pairs = false, norms = false;
  };
  Changed changed(const fs::path& dir, const fs::path& adapter = {}) {
    Changed out;
    const auto before = weights(folder_ / "model"), after = weights(dir, adapter);
    EXPECT_EQ(before.size(), after.size());
    for (const auto& [name, x] : before) {
      const bool same = after.at(name).equal(x);
      bool& kind = name.find(".lora_") != std::string::npos      ? out.pairs
                   : name.find("layernorm") != std::string::npos ? out.norms
                                                                 : out.shared;
      kind |= !same;
    }
    return out;
  }

  test::TemporaryFolder folder_;
  const fs::path teacher_ = folder_ / "teacher";
};

const std::string kWhole = "lora=null", kOwn = "lora.own=true";

TEST_F(TrainTied, EverythingLearns) {
  const FinetuneResult result = train("run", {kWhole});
  EXPECT_LT(*result.eval_loss, *result.first_eval_loss);
  const Changed what = changed(result.output);
  EXPECT_TRUE(what.shared && what.pairs && what.norms);
  EXPECT_EQ(ModelConfig::read(result.output).recursive, ModelConfig::read(folder_ / "model").recursive);
  // It can be untied, as any tied model can.
  run_conversion(plan_conversion({.model = result.output, .arch = "", .untie = true, .out = folder_ / "untied"}));
  EXPECT_EQ(ModelConfig::read(folder_ / "untied").num_hidden_layers, 4);
}

TEST_F(TrainTied, TheAdapterLearnsAlone) {
  const FinetuneResult result = train("run", {kOwn});
  EXPECT_LT(*result.eval_loss, *result.first_eval_loss);
  const Changed what = changed(folder_ / "model", result.output);
  EXPECT_TRUE(!what.shared && what.pairs && what.norms);
}

TEST_F(TrainTied, StoppedAndTakenUpAgainItIsTheSame) {
  for (const std::string& what : {kWhole, kOwn}) {
    const FinetuneResult whole = train("whole" + what.substr(5, 1), {what, "train.max_steps=6"});
    fs::remove_all(folder_ / "again");
    const std::string first = (folder_ / ("whole" + what.substr(5, 1)) / "ckpt-3").string();
    const FinetuneResult again = train("again", {what, "train.max_steps=6", "save.resume=" + first});
    const bool own = what == kOwn;
    const auto a = own ? weights(folder_ / "model", whole.output) : weights(whole.output);
    const auto b = own ? weights(folder_ / "model", again.output) : weights(again.output);
    for (const auto& [name, x] : a) EXPECT_TRUE(b.at(name).equal(x)) << name;
  }
}

TEST_F(TrainTied, ATeacherIsNamed) {
  EXPECT_NE(refusal({kWhole, "distill.weight=0.5"}).find("set distill.teacher"), std::string::npos);
  const std::string teacher = "distill.teacher=" + teacher_.string();
  const auto distance = [&](const fs::path& dir) {  // from the teacher, in text that it was not trained on
    const at::NoGradGuard no_grad;
    at::manual_seed(3);
    const Sequences text = Sequences::from_padded(at::randint(40, 120, {1, 24}, at::kLong));
    const auto log_p = [&](const fs::path& of) {
      const auto model = CausalLM::load(of);
      return model->logits(model->hidden_states(text)).log_softmax(1);
    };
    const at::Tensor p = log_p(teacher_);
    return (p.exp() * (p - log_p(dir))).sum(1).mean().item<double>();
  };
  const double before = distance(folder_ / "model");
  for (const std::string divergence : {"forward-kl", "reverse-kl", "jensen-shannon", "total-variation"}) {
    const FinetuneResult result = train("run" + divergence, {kWhole, teacher, "distill.weight=1", "train.max_steps=30",
                                                             "distill.divergence=" + divergence});
    EXPECT_LT(distance(result.output), 0.8 * before) << divergence;
  }
  const FinetuneResult adapter = train("adapter", {kOwn, teacher, "distill.weight=0.5"});
  EXPECT_TRUE(changed(folder_ / "model", adapter.output).pairs);
}

TEST_F(TrainTied, ExitsLearn) {
  const auto loss_after_first_loop = [&](const fs::path& dir) {
    const at::NoGradGuard no_grad;
    const auto model = CausalLM::load(dir);
    at::manual_seed(3);
    const at::Tensor ids = at::randint(40, 120, {24}, at::kLong);
    const std::vector<at::Tensor> exits = model->exit_states(Sequences::from_padded(ids.unsqueeze(0)));
    EXPECT_EQ(exits.size(), 2);
    EXPECT_TRUE(exits.back().equal(model->hidden_states(Sequences::from_padded(ids.unsqueeze(0)))));
    const at::Tensor first = model->logits(exits[0]).log_softmax(1), last = model->logits(exits[1]).log_softmax(1);
    return (last.exp() * (last - first)).sum().item<double>();
  };
  const std::vector<std::string> plain = {kWhole, "train.max_steps=40"};
  std::vector<std::string> exits = plain;
  exits.insert(exits.end(), {"exits.weight=1", "exits.distill=0.9"});
  const FinetuneResult without = train("without", plain), with = train("with", exits);
  EXPECT_LT(*with.eval_loss, *with.first_eval_loss);
  EXPECT_LT(loss_after_first_loop(with.output), 0.5 * loss_after_first_loop(without.output));
  tie({.recursion = {.sharing = Sharing::kMiddleCycle}, .rank = 3});
  train("middle", {kWhole, "exits.weight=0.1", "train.activation_checkpointing=full"});
  tie({.recursion = {.sharing = Sharing::kSequence}, .rank = 3});
  EXPECT_NE(refusal({kWhole, "exits.weight=0.1"}).find("loops run one after the other"), std::string::npos);
}

TEST_F(TrainTied, CheckpointedActivationsChangeNothing) {
  const std::vector<std::string> how = {kWhole, "exits.weight=0.3"};
  std::vector<std::string> checkpointed = how;
  checkpointed.push_back("train.activation_checkpointing=full");
  const auto a = weights(train("a", how).output), b = weights(train("b", checkpointed).output);
  for (const auto& [name, x] : a) expect_close(b.at(name), x, 1e-4, name.c_str());
}

// Gains that are folded into the student's projections are not counted twice.
TEST_F(TrainTied, AttentionIsLearnedThroughItsOwnNorm) {
  tie({.rank = 1000}, "gla");
  LoadOptions plain;
  plain.liger = LigerConfig{};
  const auto teacher = CausalLM::load(teacher_), untied = CausalLM::load(teacher_, plain);
  const auto tied = CausalLM::load(folder_ / "model");
  const at::NoGradGuard no_grad;
  at::manual_seed(3);
  const Sequences text = Sequences::from_padded(at::randint(258, {1, 30}, at::kLong));
  expect_close(attention_error(*tied, *teacher, text), attention_error(*untied, *teacher, text), 1e-4, "error");
}

TEST_F(TrainTied, LinearizedLayersLearnToo) {
  tie({.rank = 3}, "gla");
  const FinetuneResult result = train("run", {kWhole, "distill.weight=0.5", "distill.teacher=" + teacher_.string()});
  EXPECT_LT(*result.eval_loss, *result.first_eval_loss);
  EXPECT_EQ(ModelConfig::read(result.output).liger->recurrence, "gla");
}

TEST_F(TrainTied, WhatMakesNoSenseIsRefused) {
  EXPECT_NE(refusal({}).find("set lora.own to true to train that"), std::string::npos);
  EXPECT_NE(refusal({"model.path=" + teacher_.string(), kOwn}).find("brings no adapter along"), std::string::npos);
  EXPECT_NE(refusal({"model.path=" + teacher_.string(), kWhole, "exits.weight=0.1"}).find("expected a recursive model"),
            std::string::npos);
}

// Strictly tied, it takes an adapter as every model does, with a pair for each depth.
TEST_F(TrainTied, ANewAdapterHasAPairForEachDepth) {
  tie({.rank = 0});
  const FinetuneResult result = train("run", {});
  const FinetuneResult again =
      train("again", {"train.max_steps=8", "save.resume=" + (folder_ / "run" / "ckpt-6").string()});
  const auto a = weights(folder_ / "model", result.output), b = weights(folder_ / "model", again.output);
  for (const auto& [name, x] : a) EXPECT_TRUE(b.at(name).equal(x)) << name;
  const ModelConfig config = ModelConfig::read(folder_ / "model");
  EXPECT_EQ(read_adapter(result.output, config).modules.size(), 4 * 3);
  EXPECT_FALSE(read_adapter_config(result.output).layer_replication.empty());
}

}  // namespace
}  // namespace liger
