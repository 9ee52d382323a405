#include <gtest/gtest.h>

#include <csignal>

#include "liger/error.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::CommandOptions;
using test::CommandResult;
using test::slurp;

class FinetuneTool : public testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "model");
    test::write_text_rows(folder_ / "rows.jsonl", 40);
    write_text_atomic(folder_ / "run.yaml", test::tiny_run(folder_.path()));
  }

  CommandResult run(std::vector<std::string> arguments, const CommandOptions& options = {}) {
    arguments.insert(arguments.begin(), {(folder_ / "run.yaml").string(), "--threads", "1"});
    return test::run_tool("liger-finetune", arguments, options);
  }
  // The code, one line "error: ..." that has all `parts`, nothing on stdout and nothing in the run's folder.
  void expect_failure(const std::vector<std::string>& arguments, int code, const std::vector<std::string>& parts) {
    const CommandResult result = run(arguments);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(result.out, "");
    const size_t at = result.err.rfind("error: ");
    ASSERT_NE(at, std::string::npos) << result.err;
    EXPECT_EQ(result.err.find('\n', at), result.err.size() - 1) << result.err;
    for (const std::string& part : parts) EXPECT_NE(result.err.find(part, at), std::string::npos) << result.err;
    EXPECT_FALSE(fs::exists(folder_ / "run"));
  }

  test::TemporaryFolder folder_;
};

TEST_F(FinetuneTool, TrainsAndPrintsJson) {
  const CommandResult result = run({"--json", "--set", "train.max_steps=4"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = parse_json(result.out, "stdout");
  EXPECT_EQ(json["steps"], 4);
  EXPECT_LT(json["eval_loss"].get<double>(), json["first_eval_loss"].get<double>());
  const fs::path output = json["output"].get<std::string>();
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors", "README.md"}) {
    EXPECT_TRUE(fs::exists(output / file)) << file;
  }
  EXPECT_EQ(slurp(folder_ / "run" / "loss.svg").substr(0, 4), "<svg");
  EXPECT_EQ(slurp(folder_ / "run" / "metrics.csv").substr(0, 34), "current_steps,total_steps,loss,eva");
}

TEST_F(FinetuneTool, PrintsTheWholeConfigurationAsItsOwnInput) {
  const CommandResult first = run({"--print-config", "--set", "train.lr=5e-4"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  write_text_atomic(folder_ / "run.yaml", first.out);
  EXPECT_EQ(run({"--print-config"}).out, first.out);
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(FinetuneTool, DryRunShowsTheFirstSamples) {
  const CommandResult result = run({"--dry-run"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("sample 2"), std::string::npos) << result.out;
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(FinetuneTool, BadInputIsOneLineAndNoFolder) {
  expect_failure({"--set", "train.learning_rat=1"}, 2, {"learning_rat"});
  expect_failure({"--set", "train.lr"}, 2, {"train.lr"});
  expect_failure({"--set", cat("model.path=", (folder_ / "nothing").string())}, 2, {"nothing"});
  write_text_atomic(folder_ / "empty.jsonl", "");
  expect_failure({"--set", cat("data.train=", (folder_ / "empty.jsonl").string())}, 3, {"empty.jsonl", "no row"});
  expect_failure({"--set", cat("data.train=", (folder_ / "absent.jsonl").string())}, 4, {"absent.jsonl"});
  write_text_atomic(folder_ / "prompts.jsonl", R"({"prompt": ")" + std::string(90, 'x') + R"(", "completion": "y"})");
  const std::string prompts = cat("data.train=", (folder_ / "prompts.jsonl").string());
  expect_failure({"--set", prompts, "--set", "data.format=completion", "--set", "data.val_size=0", "--set",
                  "data.over_length=truncate"},
                 3, {"prompts.jsonl:1", "token to learn"});
  expect_failure({"--set", prompts}, 3, {"prompts.jsonl:1", "text"});
  expect_failure({"--set", "lora.targets=[q_prj]"}, 2, {"q_prj"});
  expect_failure({"--set", "data.val_size=40"}, 3, {"val_size"});
}

TEST_F(FinetuneTool, FullDiskKeepsTheLastGoodSave) {
  // Checkpoints of 20 KB fit under the limit; after 90 rows the metrics do not.
  CommandOptions limited;
  limited.file_size_limit = 30'000;
  const CommandResult result =
      run({"--set", "train.max_steps=2000", "--set", "save.every=5", "--set", "data.val_size=0"}, limited);
  EXPECT_EQ(result.exit_code, 4) << result.err;
  EXPECT_NE(result.err.find("metrics.jsonl"), std::string::npos) << result.err;
  int good = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
    const std::string name = entry.path().filename().string();
    EXPECT_FALSE(name.starts_with(".")) << name;
    if (name.starts_with("ckpt-") && entry.is_directory()) {
      verify_manifest(entry.path());
      ++good;
    }
  }
  EXPECT_EQ(good, 3);
}

TEST_F(FinetuneTool, FullDiskInASaveLeavesNoHalfFolder) {
  CommandOptions limited;
  limited.file_size_limit = 4'000;  // too little for one checkpoint
  const CommandResult result = run({}, limited);
  EXPECT_EQ(result.exit_code, 4) << result.err;
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
    EXPECT_FALSE(entry.is_directory()) << entry.path();
  }
}

TEST_F(FinetuneTool, NonFiniteTrainingIsExit5) {
  // The update blows the weights up; the next loss is not a number.
  const CommandResult result = run({"--set", "train.lr=1e30", "--set", "train.scheduler=constant", "--set", "train.eval_every=0"});
  EXPECT_EQ(result.exit_code, 5) << result.err;
  EXPECT_NE(result.err.find("update 2"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "final"));
}

TEST_F(FinetuneTool, SignalSavesAndTheSameCommandGoesOn) {
  const std::vector<std::string> settings = {"--set", "train.max_steps=60", "--set", "save.every=0", "--set", "lora.dropout=0.1"};
  ASSERT_EQ(run(settings).exit_code, 0);
  const std::string straight = slurp(folder_ / "run" / "final" / "adapter_model.safetensors");
  fs::remove_all(folder_ / "run");

  CommandOptions interrupt;
  bool sent = false;
  interrupt.on_stderr = [&](pid_t pid, const std::string& text) {
    if (!sent && text.find("update 6:") != std::string::npos) {
      sent = true;
      kill(pid, SIGTERM);
    }
  };
  const CommandResult stopped = run(settings, interrupt);
  ASSERT_TRUE(sent) << stopped.err;
  ASSERT_EQ(stopped.exit_code, 75) << stopped.err;
  EXPECT_NE(stopped.err.find("saved in"), std::string::npos) << stopped.err;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "final"));
  const CommandResult resumed = run(settings);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("going on from"), std::string::npos);
  EXPECT_EQ(slurp(folder_ / "run" / "final" / "adapter_model.safetensors"), straight);
}

TEST_F(FinetuneTool, SignalBeforeTheFirstAndAfterTheLastUpdateSavesToo) {
  const std::vector<std::string> settings = {"--set", "train.max_steps=3", "--set", "save.every=0"};
  ASSERT_EQ(run(settings).exit_code, 0);
  const std::string straight = slurp(folder_ / "run" / "final" / "adapter_model.safetensors");
  for (const char* moment : {"validation data:", "update 3:"}) {
    fs::remove_all(folder_ / "run");
    CommandOptions interrupt;
    bool sent = false;
    interrupt.on_stderr = [&](pid_t pid, const std::string& text) {
      if (!sent && text.find(moment) != std::string::npos) {
        sent = true;
        kill(pid, SIGTERM);
      }
    };
    const CommandResult stopped = run(settings, interrupt);
    ASSERT_TRUE(sent) << stopped.err;
    if (stopped.exit_code != 0) {  // the signal may come too late
      ASSERT_EQ(stopped.exit_code, 75) << stopped.err;
      ASSERT_NE(stopped.err.find("saved in"), std::string::npos) << stopped.err;
      ASSERT_EQ(run(settings).exit_code, 0);
    }
    EXPECT_EQ(slurp(folder_ / "run" / "final" / "adapter_model.safetensors"), straight) << moment;
  }
}

TEST_F(FinetuneTool, ShippedConfigurationsAreValid) {
  for (const char* name : {"lora.yaml", "full.yaml"}) {
    const CommandResult result =
        test::run_tool("liger-finetune", {LIGER_SOURCE "/configs/" + std::string(name), "--model", "m", "--print-config",
                                          "--set", "data.train=d.jsonl", "--set", "save.dir=out"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
}

}  // namespace
}  // namespace liger
