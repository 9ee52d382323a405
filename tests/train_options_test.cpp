#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "liger/error.h"
#include "liger/io/settings.h"
#include "liger/train/options.h"

namespace liger {
namespace {

const char* const kShortest = "model: {path: m}\ndata: {train: d.jsonl}\nsave: {dir: out}\n";

FinetuneOptions read(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
  Settings settings = Settings::from_yaml(yaml, "run.yaml");
  for (const std::string& assignment : assignments) settings.override_with(assignment);
  return read_finetune_options(settings);
}

std::string error_of(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
  try {
    read(yaml, assignments);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(FinetuneOptions, DefaultsAreTheReferences) {
  const FinetuneOptions o = read(kShortest);
  ASSERT_TRUE(o.lora);
  EXPECT_EQ(o.lora->r, 8);
  EXPECT_EQ(o.lora->alpha, 8);
  EXPECT_EQ(o.lora->targets.names, (std::vector<std::string>{"q_proj", "k_proj", "v_proj"}));
  EXPECT_EQ(o.train.lr, 1e-3);
  EXPECT_EQ(o.train.scheduler, SchedulerKind::kPlateau);
  EXPECT_EQ(o.data.max_length, 1024);
  EXPECT_EQ(o.data.pack, Packing::kConcat);
}

TEST(FinetuneOptions, LoraNullIsFullTraining) {
  EXPECT_FALSE(read(std::string(kShortest) + "lora: null\n").lora);
  EXPECT_FALSE(read(kShortest, {"lora=null"}).lora);
  EXPECT_EQ(read(std::string(kShortest) + "lora: {r: 3}\n").lora->r, 3);
}

TEST(FinetuneOptions, WhatIsPrintedReadsTheSame) {
  FinetuneOptions o = read(std::string(kShortest) + "lora: null\n",
                           {"model.path='a \"b\": #c'", "model.attention=liger_gla", "model.window=17",
                            "train.lr=3.3e-4", "train.max_steps=7", "data.over_length=split", "data.pack=none",
                            "data.format=text", "train.scheduler=cosine", "log.svg=false", "save.resume=never"});
  const FinetuneOptions again = read(to_yaml(o));
  EXPECT_EQ(to_yaml(again), to_yaml(o));
  EXPECT_EQ(to_json(again), to_json(o));
  EXPECT_EQ(again.model.path, "a \"b\": #c");
  EXPECT_EQ(again.train.lr, 3.3e-4);
  EXPECT_EQ(again.model.window, 17);
  EXPECT_EQ(to_yaml(read(to_yaml(read(kShortest)))), to_yaml(read(kShortest)));
}

TEST(FinetuneOptions, NoTextsAreSampledUnlessAskedFor) {
  EXPECT_FALSE(read(kShortest).sample);
  EXPECT_FALSE(read(kShortest, {"sample=null"}).sample);
  const FinetuneOptions o = read(kShortest, {"sample={prompts: [Once, 'a: b'], every: 7}"});
  EXPECT_EQ(o.sample->prompts, (std::vector<std::string>{"Once", "a: b"}));
  EXPECT_EQ(o.sample->every, 7);
  EXPECT_EQ(to_yaml(read(to_yaml(o))), to_yaml(o));
}

TEST(FinetuneOptions, LoraOfEveryKind) {
  const FinetuneOptions o = read(std::string(kShortest) +
                                 "lora: {targets: '.*\\.(q|o)_proj', exclude: [o_proj], dora: true, plus_ratio: 16,\n"
                                 "  rank_pattern: {o_proj: 4, '.*q': 2, 'a\\.b': 3}, alpha_pattern: {q_proj: 1.5}}\n"
                                 "train: {optimizer: adamw8bit}\n");
  EXPECT_EQ(o.lora->targets, ModuleSelector{.regex = ".*\\.(q|o)_proj"});
  EXPECT_EQ(o.lora->exclude, ModuleSelector{.names = {"o_proj"}});
  EXPECT_TRUE(o.lora->dora);
  EXPECT_EQ(o.lora->plus_ratio, 16);
  using Ranks = std::vector<std::pair<std::string, int64_t>>;
  EXPECT_EQ(o.lora->rank_pattern, (Ranks{{"o_proj", 4}, {".*q", 2}, {"a\\.b", 3}}));  // as written: the first counts
  EXPECT_EQ(o.lora->alpha_pattern.front().second, 1.5);
  EXPECT_EQ(o.train.optimizer, OptimizerKind::kAdamW8bit);
  EXPECT_EQ(to_yaml(read(to_yaml(o))), to_yaml(o));
  EXPECT_EQ(to_json(read(to_yaml(o))), to_json(o));
  EXPECT_EQ(read(kShortest, {"lora.targets=all-linear"}).lora->targets.regex, "all-linear");
  EXPECT_EQ(read(kShortest, {"lora.targets=[o_proj]", "lora.layers=[1, 3]"}).lora->layers,
            (std::vector<int64_t>{1, 3}));
}

TEST(FinetuneOptions, MistakesAreNamedWithTheirPlace) {
  const auto expect = [](const std::string& error, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect(error_of(std::string(kShortest) + "train:\n  learning_rat: 1\n"), {"run.yaml:5", "learning_rat"});
  expect(error_of(std::string(kShortest) + "trian: {lr: 1}\n"), {"trian", "train"});
  expect(error_of(kShortest, {"train.lr=0"}), {"lr", "more than 0"});
  expect(error_of(kShortest, {"train.lr=fast"}), {"lr"});
  expect(error_of(kShortest, {"lora.r=0"}), {"lora.r", "at least 1"});
  expect(error_of(kShortest, {"lora.plus_ratio=0.5"}), {"plus_ratio", "at least 1"});
  expect(error_of(kShortest, {"lora.rank_pattern={q_proj: big}"}), {"q_proj", "big"});
  expect(error_of(kShortest, {"lora.rank_pattern=q_proj"}), {"rank_pattern", "mapping"});
  expect(error_of(kShortest, {"lora.targets={q_proj: 1}"}), {"targets", "list"});
  expect(error_of(kShortest, {"lora.targets=all-linear", "lora.layers=[0]"}), {"layers", "regular expression"});
  expect(error_of(kShortest, {"train.optimizer=sgd"}), {"optimizer", "adamw, adamw8bit"});
  expect(error_of(kShortest, {"model.mix=1.5"}), {"mix", "at most 1"});
  expect(error_of(kShortest, {"data.format=dialogue"}), {"format", "alpaca, completion, text, chat, sharegpt"});
  expect(error_of(kShortest, {"data.template=llama2"}), {"data.template", "chat and sharegpt"});
  expect(error_of(kShortest, {"data.format=chat", "data.template=llama4"}),
         {"template", "null, llama2, llama3, llama3.1, gemma, mistral"});
  expect(error_of(kShortest, {"train.batch_size=6", "train.micro_batch_size=4"}), {"batch_size", "multiple"});
  expect(error_of(kShortest, {"data.val_size=0"}), {"scheduler", "plateau"});
  expect(error_of(kShortest, {"model.attention=softmax", "model.window=8"}), {"window", "softmax"});
  expect(error_of(kShortest, {"lora=null", "model.dtype=bf16"}), {"dtype", "float32"});
  expect(error_of(kShortest, {"model.init=random"}), {"init", "lora"});
  expect(error_of(kShortest, {"train.scheduler=cosine", "train.min_lr=1"}), {"min_lr"});
  expect(error_of(kShortest, {"sample.every=5"}), {"sample.prompts", "at least one text"});
  expect(error_of(kShortest, {"sample={prompts: [a], every: 0}"}), {"sample.every", "at least 1"});
  expect(error_of("data: {train: d.jsonl}\nsave: {dir: out}\n"), {"path"});
  expect(error_of("model: {path: m}\nsave: {dir: out}\n"), {"train"});
  expect(error_of("model: {path: m}\ndata: {train: d}\n"), {"dir"});
}

TEST(FinetuneOptions, TheTableOfKeysIsTheOneInTheRepository) {
  std::ifstream in(LIGER_SOURCE "/configs/README.md");
  const std::string kept{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(options_table(), kept) << "after a change: build/bin/liger-finetune --help-config > configs/README.md";
  const FinetuneOptions defaults;
  const OrderedJson all = to_json(defaults);
  for (const auto& section : all.items()) {
    for (const auto& key : section.value().items()) {
      EXPECT_NE(kept.find(cat("\n| `", key.key(), "` | ")), std::string::npos) << section.key() << "." << key.key();
    }
  }
}

TEST(FinetuneOptions, WhatIsNotBuiltYetIsUnknown) {
  for (const char* key : {"train.distributed=true", "lora.pissa=true"}) {
    EXPECT_NE(error_of(kShortest, {key}).find("unknown"), std::string::npos) << key;
  }
}

}  // namespace
}  // namespace liger
