#include <gtest/gtest.h>

#include <algorithm>

#include "command.h"
#include "liger/core/model_config.h"
#include "tiny_model.h"

// liger-convert as a user meets it: results on stdout, one line per error, exit codes, and nothing left behind.

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::CommandOptions;
using test::CommandResult;
using test::TinyModel;

class ConvertCli : public testing::Test {
 protected:
  CommandResult run(std::vector<std::string> arguments, CommandOptions options = {}) {
    options.directory = folder_.path();
    options.environment["HF_HUB_CACHE"] = (folder_ / "cache").string();
    return test::run_tool("liger-convert", arguments, options);
  }

  // Runs a conversion that must fail with `code` and one line that contains `text`, leaving everything as it was.
  void expect_error(int code, const std::string& text, const std::vector<std::string>& arguments,
                    const CommandOptions& options = {}) {
    const auto before = test::listing(folder_.path());
    const CommandResult result = run(arguments, options);
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_TRUE(result.err.starts_with("error: ")) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
    EXPECT_EQ(test::listing(folder_.path()), before);
  }
  void expect_bad_model(const std::string& text) { expect_error(3, text, {"--model", "model", "--arch", "gla"}); }

  void edit_config(const std::function<void(Json&)>& edit) {
    Json config = Json::parse(test::read_file(model_ / "config.json"));
    edit(config);
    test::write_file(model_ / "config.json", config.dump());
  }

  test::TemporaryFolder folder_;
  fs::path model_ = folder_ / "model";
};

TEST_F(ConvertCli, HelpFitsAScreenAndSaysWhatTheWindowCounts) {
  const CommandResult help = run({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_LE(std::count(help.out.begin(), help.out.end(), '\n'), 40);
  EXPECT_NE(help.out.find("counts 65 keys, as the released checkpoints do"), std::string::npos) << help.out;
  EXPECT_NE(help.out.find("Eq. 10 says 64"), std::string::npos);
  const CommandResult version = run({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_NE(version.out.find("LibTorch 2."), std::string::npos) << version.out;
}

TEST_F(ConvertCli, ConvertsBesideTheCurrentFolderByDefault) {
  TinyModel().write(model_);
  const CommandResult result = run({"--model", "model", "--arch", "gla"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_NE(result.out.find("model-liger-gla"), std::string::npos) << result.out;
  EXPECT_EQ(*ModelConfig::read(folder_ / "model-liger-gla").liger, LigerConfig{});
  EXPECT_EQ(run({"--model", "model-liger-gla", "--arch", "softmax", "-q"}).exit_code, 0);
  EXPECT_EQ(test::read_file(folder_ / "model-softmax/config.json"), test::read_file(model_ / "config.json"));
}

TEST_F(ConvertCli, NamesAreFoundInTheCache) {
  const fs::path entry = folder_ / "cache/models--google--gemma-2b";
  TinyModel{.model_type = "gemma", .tied = true}.write(entry / "snapshots/abc");
  test::write_file(entry / "refs/main", "abc");
  const CommandResult result = run({"--model", "gemma-2b", "--arch", "gla", "--quiet"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(fs::exists(folder_ / "gemma-2b-liger-gla/model.safetensors"));
}

TEST_F(ConvertCli, SettingsThePublishedCodeIgnoresAreWarnedOf) {
  TinyModel().write(model_);
  const CommandResult result = run({"--model", "model", "--arch", "gla", "--window", "64", "--sinks", "4"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_NE(result.err.find("will ignore window 64 (it uses 65), sinks 4 (it uses 0)"), std::string::npos)
      << result.err;
}

TEST_F(ConvertCli, JsonIsOneDocument) {
  TinyModel().write(model_);
  const auto before = test::listing(folder_.path());
  const CommandResult plan = run({"--model", "model", "--arch", "gla", "--dry-run", "--json", "--dtype", "f16"});
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_EQ(test::listing(folder_.path()), before);
  const Json planned = Json::parse(plan.out);
  EXPECT_EQ(planned["dry_run"], true);
  EXPECT_EQ(planned["files"][0],
            (Json{{"name", "model.safetensors"}, {"action", "rewrite"}, {"bytes", planned["files"][0]["bytes"]}}));
  const CommandResult done = run({"--model", "model", "--arch", "gla", "--json"});
  const Json document = Json::parse(done.out);
  EXPECT_EQ(document["dry_run"], false);
  EXPECT_EQ(document["files"][0]["action"], "link");
  EXPECT_EQ(document["out"], (folder_ / "model-liger-gla").string());
}

TEST_F(ConvertCli, DryRunPrintsThePlan) {
  TinyModel{.shards = 2}.write(model_);
  const auto before = test::listing(folder_.path());
  const CommandResult result = run({"--model", "model", "--arch", "gla", "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* text : {"link", "model-00002-of-00002.safetensors", "copy", "write", "memory: about",
                           "model_type: \"llama\" -> \"liger_gla\""}) {
    EXPECT_NE(result.out.find(text), std::string::npos) << text << "\n" << result.out;
  }
  EXPECT_EQ(test::listing(folder_.path()), before);
}

TEST_F(ConvertCli, UsageErrors) {
  TinyModel().write(model_);
  const std::vector<std::string> good = {"--model", "model", "--arch", "gla"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), good.begin(), good.end());
    return more;
  };
  expect_error(2, "--model is required", {"--arch", "gla"});
  expect_error(2, "--help", with({"--frobnicate"}));
  expect_error(2, "mamba", {"--model", "model", "--arch", "mamba"});
  expect_error(2, "window", with({"--window", "0"}));
  expect_error(2, "--window", with({"--window", "many"}));
  expect_error(2, "mix", with({"--mix", "1.5"}));
  expect_error(2, "gate_divisor", with({"--gate-divisor", "-1"}));
  expect_error(2, "f8", with({"--dtype", "f8"}));
  expect_error(2, "--shard-size", with({"--shard-size", "0"}));
  expect_error(2, "--shard-size", with({"--shard-size", "5 parsecs"}));
  expect_error(2, "choose another folder", with({"--out", "model"}));
  expect_error(2, "--mix has no meaning", {"--model", "model", "--arch", "softmax", "--mix", "0.5"});
  expect_error(2, "hf download meta-llama/Llama-3.2-1B", {"--model", "llama3.2-1b", "--arch", "gla"});
  expect_error(2, "known are", {"--model", "missing", "--arch", "gla"});
}

TEST_F(ConvertCli, MissingShard) {
  TinyModel{.shards = 3}.write(model_);
  fs::remove(model_ / "model-00002-of-00003.safetensors");
  expect_bad_model("model-00002-of-00003.safetensors: missing");
}

TEST_F(ConvertCli, TruncatedShard) {
  TinyModel{.shards = 3}.write(model_);
  for (const int64_t less : {1, 100, 3000}) {
    const fs::path shard = model_ / "model-00003-of-00003.safetensors";
    fs::resize_file(shard, fs::file_size(shard) - static_cast<uintmax_t>(less));
    expect_bad_model("model-00003-of-00003.safetensors");
  }
}

TEST_F(ConvertCli, WrongShape) {
  TinyModel().write(model_);
  edit_config([](Json& config) { config["num_key_value_heads"] = 1; });
  expect_bad_model("model.layers.{0-2}.self_attn.k_proj.weight expected [8, 32], got [16, 32]");
}

TEST_F(ConvertCli, UnknownModelType) {
  TinyModel().write(model_);
  edit_config([](Json& config) { config["model_type"] = "rwkv"; });
  expect_bad_model("model_type 'rwkv' is not supported (llama, gemma");
}

TEST_F(ConvertCli, BadConfigs) {
  TinyModel().write(model_);
  const std::string good = test::read_file(model_ / "config.json");
  test::write_file(model_ / "config.json", good.substr(0, 100));
  expect_bad_model("config.json:");
  test::write_file(model_ / "config.json", "[]");
  expect_bad_model("expected an object");
  for (const auto& [key, value] : std::map<std::string, Json>{{"vocab_size", 0},
                                                              {"num_attention_heads", 5},
                                                              {"hidden_size", int64_t{1} << 40},
                                                              {"num_hidden_layers", 1'000'000'000},
                                                              {"rms_norm_eps", -1.0}}) {
    test::write_file(model_ / "config.json", good);
    edit_config([&](Json& config) { config[key] = value; });
    expect_bad_model(key);
  }
  fs::remove(model_ / "config.json");
  expect_bad_model("no config.json");
}

TEST_F(ConvertCli, PickledWeights) {
  TinyModel().write(model_);
  fs::rename(model_ / "model.safetensors", model_ / "pytorch_model.bin");
  expect_bad_model("pickled");
}

TEST_F(ConvertCli, LinearizedAlready) {
  TinyModel().write(model_);
  run({"--model", "model", "--arch", "gla", "--out", "linear"});
  expect_error(3, "linearized already", {"--model", "linear", "--arch", "gla"});
  expect_error(3, "has softmax attention already", {"--model", "model", "--arch", "softmax"});
}

TEST_F(ConvertCli, FullDisk) {
  TinyModel().write(model_);
  const CommandOptions limit{.file_size_limit = 10'000};
  expect_error(4, "model.safetensors", {"--model", "model", "--arch", "gla", "--dtype", "f32", "-q"}, limit);
  test::write_file(model_ / "tokenizer.json", std::string(20'000, ' '));
  expect_error(4, "tokenizer.json", {"--model", "model", "--arch", "gla"}, limit);
}

TEST_F(ConvertCli, OutputInTheWay) {
  TinyModel().write(model_);
  test::write_file(folder_ / "out/mine.txt", "keep me");
  const std::vector<std::string> arguments = {"--model", "model", "--arch", "gla", "--out", "out"};
  expect_error(7, "not empty", arguments);
  auto forced = arguments;
  forced.push_back("--overwrite");
  expect_error(7, "was not written by liger", forced);
  test::write_file(folder_ / "file", "x");
  expect_error(7, "file", {"--model", "model", "--arch", "gla", "--out", "file"});

  fs::remove(folder_ / "out/mine.txt");
  EXPECT_EQ(run(arguments).exit_code, 0);
  expect_error(7, "not empty", arguments);
  forced.insert(forced.end(), {"--window", "32", "-q"});
  EXPECT_EQ(run(forced).exit_code, 0);
  EXPECT_EQ(ModelConfig::read(folder_ / "out").liger->window, 32);
}

TEST_F(ConvertCli, ABrokenPipeEndsQuietly) {
  TinyModel().write(model_);
  const CommandResult result = run({"--model", "model", "--arch", "gla", "--dry-run"}, {.close_stdout = true});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_EQ(result.err, "");
}

TEST_F(ConvertCli, LogsAsJson) {
  TinyModel().write(model_);
  const CommandResult result = run({"--model", "model", "--arch", "softmax", "--log-format", "json"});
  EXPECT_EQ(result.exit_code, 3);
  const Json line = Json::parse(result.err);
  EXPECT_EQ(line["level"], "error");
}

}  // namespace
}  // namespace liger
