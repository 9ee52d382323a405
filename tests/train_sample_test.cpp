// Texts that a run writes while it trains.

#include <gtest/gtest.h>

#include "liger/error.h"
#include "liger/generate/generate.h"
#include "liger/train/trainer.h"
#include "run_files.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::slurp;

class SampleTest : public testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "model");
    test::write_text_rows(folder_ / "rows.jsonl", 40);
  }
  FinetuneResult train(const std::string& run, std::vector<std::string> assignments) {
    assignments.push_back("lora.dropout=0.2");
    return Trainer(test::read_options(test::tiny_run(folder_.path(), run), assignments)).run();
  }
  std::vector<Json> samples(const std::string& run) const {
    std::vector<Json> rows;
    std::istringstream lines(slurp(folder_ / run / "samples.jsonl"));
    for (std::string line; std::getline(lines, line);) rows.push_back(parse_json(line, "samples.jsonl"));
    return rows;
  }

  test::TemporaryFolder folder_;
};

constexpr const char* kTwoPrompts = "sample={prompts: [ann has, 'bob '], every: 3, max_new_tokens: 12}";

TEST_F(SampleTest, TheRunIsTheSameAsWithoutThem) {
  train("with", {kTwoPrompts, "sample.temperature=0.7"});
  train("without", {});
  for (const char* file : {"final/adapter_model.safetensors", "ckpt-8/optimizer.safetensors"}) {
    EXPECT_TRUE(slurp(folder_ / "with" / file) == slurp(folder_ / "without" / file)) << file;
  }
  EXPECT_EQ(test::metrics_without_clock(folder_ / "with"), test::metrics_without_clock(folder_ / "without"));
  EXPECT_FALSE(fs::exists(folder_ / "without" / "samples.jsonl"));
}

TEST_F(SampleTest, TheyAreWhatTheModelGeneratesThen) {
  const FinetuneResult result = train("run", {kTwoPrompts});
  const std::vector<Json> rows = samples("run");
  std::vector<std::pair<int64_t, std::string>> got;
  for (const Json& row : rows) got.push_back({row["step"], row["prompt"]});
  const std::vector<std::pair<int64_t, std::string>> expected = {{0, "ann has"}, {0, "bob "},    {3, "ann has"},
                                                                 {3, "bob "},    {6, "ann has"}, {6, "bob "},
                                                                 {8, "ann has"}, {8, "bob "}};
  EXPECT_EQ(got, expected);
  const auto generated = [&](const fs::path& adapter, const std::string& prompt) {
    LoadOptions options;
    options.adapter = adapter;
    const auto model = CausalLM::load(folder_ / "model", options);
    const auto tokenizer = Tokenizer::load(folder_ / "model");
    return generate(*model, *tokenizer, encode_prompt(*tokenizer, prompt), {.max_tokens = 12}).text;
  };
  EXPECT_EQ(rows[1]["text"], generated({}, "bob "));
  EXPECT_EQ(rows[2]["text"], generated(folder_ / "run" / "ckpt-3", "ann has"));
  EXPECT_EQ(rows[7]["text"], generated(result.output, "bob "));
  EXPECT_NE(rows[0]["text"], rows[6]["text"]) << "it has learned nothing";

  std::map<std::string, std::vector<std::string>> drawn;
  for (const test::TfEvent& event : test::read_tfevents(slurp(test::event_file(folder_ / "run")))) {
    for (const auto& [tag, text] : event.texts) drawn[tag].push_back(text);
  }
  ASSERT_EQ(drawn["sample/1"].size(), 4u);
  EXPECT_EQ(drawn["sample/1"][3], "bob " + rows[7]["text"].get<std::string>());
}

TEST_F(SampleTest, OtherAttentionTypesAndTrainingSample) {
  for (const char* setting :
       {"model.attention=softmax", "model.dtype=f64", "model.dtype=bf16", "model.backend=torch"}) {
    train(setting, {kTwoPrompts, setting});
    EXPECT_EQ(samples(setting).size(), 8u) << setting;
  }
  Trainer(test::read_options(test::tiny_run(folder_.path(), "full"), {kTwoPrompts, "lora=null"})).run();
  EXPECT_EQ(samples("full").size(), 8u);
}

TEST_F(SampleTest, AResumedRunWritesThemOnce) {
  train("straight", {kTwoPrompts});
  train("stopped", {kTwoPrompts, "train.max_steps=6"});
  for (const char* name : {"final", "ckpt-6"}) fs::remove_all(folder_ / "stopped" / name);  // as if killed before
  train("stopped", {kTwoPrompts, "train.max_steps=8"});
  // Another length is another rate; what counts is that every update has its texts once.
  const auto steps = [&](const std::string& run) {
    std::vector<int64_t> all;
    for (const Json& row : samples(run)) all.push_back(row["step"]);
    return all;
  };
  EXPECT_EQ(steps("stopped"), steps("straight"));
  train("stopped", {"train.max_steps=9"});
  EXPECT_EQ(steps("stopped"), steps("straight")) << "what was written stays when no more are asked for";
}

TEST_F(SampleTest, WeightsThatAreNoNumbersEndTheRun) {
  try {
    train("run", {kTwoPrompts, "sample.every=1", "train.lr=1e30", "train.scheduler=constant", "train.eval_every=0",
                  "train.max_grad_norm=0"});
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNonFinite) << e.what();
    EXPECT_NE(std::string(e.what()).find("update 1: "), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace liger
