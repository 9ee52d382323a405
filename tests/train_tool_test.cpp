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
  expect_failure({"--set", cat("data.train=", (folder_ / "absent.jsonl").string())}, 3, {"absent.jsonl: no such file"});
  write_text_atomic(folder_ / "prompts.jsonl", R"({"prompt": ")" + std::string(90, 'x') + R"(", "completion": "y"})");
  const std::string prompts = cat("data.train=", (folder_ / "prompts.jsonl").string());
  expect_failure({"--set", prompts, "--set", "data.format=completion", "--set", "data.val_size=0", "--set",
                  "data.over_length=truncate"},
                 3, {"prompts.jsonl:1", "token to learn"});
  expect_failure({"--set", prompts}, 3, {"prompts.jsonl:1", "text"});
  expect_failure({"--set", "lora.targets=[q_prj]"}, 2, {"q_prj"});
  expect_failure({"--set", "data.val_size=40"}, 3, {"val_size"});
}

TEST_F(FinetuneTool, BadDataNamesFileAndLine) {
  const std::string good = "{\"text\": \"a b c\"}\n";
  const auto expect = [&](const std::string& name, const std::string& bytes, const std::vector<std::string>& parts,
                          std::vector<std::string> more = {}) {
    write_text_atomic(folder_ / name, bytes);
    std::vector<std::string> arguments = {"--set", cat("data.train=", (folder_ / name).string())};
    more.push_back("data.val_size=0");
    for (const std::string& assignment : more) arguments.insert(arguments.end(), {"--set", assignment});
    std::vector<std::string> all = {(folder_ / name).string()};
    all.insert(all.end(), parts.begin(), parts.end());
    expect_failure(arguments, 3, all);
  };
  expect("blank.jsonl", "\n\r\n  \n", {"no row"});
  expect("broken.jsonl", good + "\n{\"text\": \n", {"broken.jsonl:3:"});
  expect("missing.jsonl", good + "{\"txt\": \"a\"}\n", {"missing.jsonl:2: the field 'text' is missing"});
  expect("number.jsonl", good + good + "{\"text\": 5}\n", {"number.jsonl:3: 'text': expected text, got number"});
  expect("bom.jsonl", "\xef\xbb\xbf" + good, {"bom.jsonl:1:1: ", "byte-order mark"});
  expect("utf8.jsonl", good + "{\"text\": \"\xc3\x28\"}\n", {"utf8.jsonl:2:12: "});
  expect("long.jsonl", good + std::string(size_t{65} << 20, 'x'), {"long.jsonl:2: a line of more than 32 MiB"});
  expect("array.json", "[{\"text\": \"a\"},\n{\"text\": null}]", {"array.json:2: 'text': expected text, got null"});
  expect("lines.json", good + good, {"lines.json:2:1: "});
  expect("packed.jsonl.gz", good, {"packed.jsonl.gz:1: the gzip stream is damaged"});
  expect("packed.json.zst", good, {"packed.json.zst:1: the zstd stream is damaged"});
  expect("chat.jsonl", "{\"messages\": []}\n", {"chat.jsonl:1: a conversation without a message"},
         {"data.format=chat", "data.template=llama2"});
  const std::string text = OrderedJson{{"text", std::string(100, 'x')}}.dump() + "\n";
  expect("over.jsonl", good + text, {"over.jsonl:2: the row has 102 tokens", "data.over_length"},
         {"data.over_length=error"});
  expect("all_over.jsonl", text + text, {"all_over.jsonl:1: ", "2 were dropped"}, {"data.over_length=drop"});
  fs::resize_file(folder_ / "long.jsonl", uint64_t{1} << 32);  // sparse
  expect_failure({"--set", cat("data.val=", (folder_ / "long.jsonl").string())}, 3,
                 {"long.jsonl:2: a line of more than 32 MiB"});
  // The tokenizer is not one for conversations, and the configuration says how to go on.
  write_text_atomic(folder_ / "chat.jsonl", R"({"messages": [{"role": "user", "content": "a"}]})");
  expect_failure({"--set", cat("data.train=", (folder_ / "chat.jsonl").string()), "--set", "data.format=chat"}, 2,
                 {"data.template", "set data.template to llama2, llama3, llama3.1, gemma"});
}

TEST_F(FinetuneTool, CrLfAndCompressedDataTrainTheSame) {
  ASSERT_EQ(run({}).exit_code, 0);
  const std::string straight = slurp(folder_ / "run" / "final" / "adapter_model.safetensors");
  std::string crlf;
  for (const char c : slurp(folder_ / "rows.jsonl")) crlf += c == '\n' ? std::string("\r\n") : std::string(1, c);
  write_text_atomic(folder_ / "crlf.jsonl", crlf);
  ASSERT_EQ(test::run_command({"/bin/sh", "-c", cat("gzip -k ", (folder_ / "rows.jsonl").string())}).exit_code, 0);
  for (const char* name : {"crlf.jsonl", "rows.jsonl.gz"}) {
    const CommandResult result = run({"--set", cat("data.train=", (folder_ / name).string()), "--set",
                                      "save.overwrite=true", "--set", "save.resume=never"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(slurp(folder_ / "run" / "final" / "adapter_model.safetensors"), straight) << name;
  }
}

TEST_F(FinetuneTool, DataThatChangedIsNotGoneOnWith) {
  ASSERT_EQ(run({"--set", "train.max_steps=4"}).exit_code, 0);
  write_text_atomic(folder_ / "rows.jsonl", slurp(folder_ / "rows.jsonl") + "{\"text\": \"more\"}\n");
  const CommandResult result = run({"--set", "train.max_steps=8"});
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_NE(result.err.find("data.train sha256"), std::string::npos) << result.err;
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
  limited.file_size_limit = 12'000;  // enough for the tokens, too little for one checkpoint
  const CommandResult result = run({}, limited);
  EXPECT_EQ(result.exit_code, 4) << result.err;
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
    EXPECT_TRUE(!entry.is_directory() || entry.path().filename() == "tokens") << entry.path();
  }
}

TEST_F(FinetuneTool, NonFiniteTrainingIsExit5) {
  // The update blows the weights up; the next loss is not a number.
  const CommandResult result =
      run({"--set", "train.lr=1e30", "--set", "train.scheduler=constant", "--set", "train.eval_every=0"});
  EXPECT_EQ(result.exit_code, 5) << result.err;
  EXPECT_NE(result.err.find("update 2"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "final"));
}

TEST_F(FinetuneTool, SignalSavesAndTheSameCommandGoesOn) {
  const std::vector<std::string> settings = {"--set", "train.max_steps=60", "--set", "save.every=0",
                                             "--set", "lora.dropout=0.1"};
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
  for (const char* name : {"lora.yaml", "lora_qkvo.yaml", "recover.yaml", "full.yaml", "distributed.yaml",
                           "uptrain.yaml", "uptrain_linear.yaml"}) {
    const CommandResult result =
        test::run_tool("liger-finetune", {LIGER_SOURCE "/configs/" + std::string(name), "--model", "m",
                                          "--print-config", "--set", "data.train=d.jsonl", "--set", "save.dir=out"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
}

}  // namespace
}  // namespace liger
