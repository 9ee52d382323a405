#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "command.h"
#include "liger/core/model_config.h"
#include "liger/error.h"
#include "liger/models/structure.h"
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
  EXPECT_NE(help.out.find("  the delta rule: deltanet, gated-deltanet, kda\n"), std::string::npos) << help.out;
  const CommandResult all = run({"--help-all"});
  EXPECT_EQ(all.exit_code, 0);
  EXPECT_EQ(help.out.find("--normalizer"), std::string::npos);
  EXPECT_NE(all.out.find("--normalizer NAME"), std::string::npos) << all.out;
  EXPECT_NE(all.out.find("    kda               Kimi delta attention"), std::string::npos) << all.out;
  EXPECT_NE(all.out.find("    softmax           softmax attention over"), std::string::npos) << all.out;
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

TEST_F(ConvertCli, OtherStructuresThereAndBack) {
  TinyModel().write(model_);
  for (const std::string name : {"gsa", "gated-deltanet", "swa"}) {
    const std::string there = "model-liger-" + name;
    const CommandResult result = run({"--model", "model", "--arch", name, "-q"});
    EXPECT_EQ(result.exit_code, 0) << name << ": " << result.err;
    EXPECT_EQ(*ModelConfig::read(folder_ / there).liger, LigerConfig{.recurrence = name});
    EXPECT_EQ(run({"--model", there, "--arch", "softmax", "--overwrite", "-q"}).exit_code, 0) << name;
    EXPECT_EQ(test::read_file(folder_ / "model-softmax/config.json"), test::read_file(model_ / "config.json")) << name;
  }
}

TEST_F(ConvertCli, HybridsAndPureRecurrences) {
  TinyModel().write(model_);
  const std::vector<std::string> common = {"--model", "model", "--arch", "kda", "--out", "out", "--overwrite", "-q"};
  const auto converted = [&](std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    const CommandResult result = run(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return *ModelConfig::read(folder_ / "out").liger;
  };
  using Layers = std::vector<int64_t>;
  EXPECT_EQ(converted({"--keep-softmax", "1"}).softmax_layers, Layers{1});
  EXPECT_EQ(converted({"--softmax-layers", "2,0"}).softmax_layers, (Layers{0, 2}));
  EXPECT_EQ(converted({"--window", "0"}), (LigerConfig{.recurrence = "kda", .window = 0}));
  EXPECT_EQ(converted({"--gate-divisor", "8"}).gate_divisor, 8);
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
  expect_error(2, "--arch: 'mamba' is not known; did you mean 'mamba2'?", {"--model", "model", "--arch", "mamba"});
  expect_error(2, "--window: expected a whole number, 0 or more, got 'many'", with({"--window", "many"}));
  expect_error(2, "--window: expected a whole number, 0 or more, got '-3'", with({"--window", "-3"}));
  expect_error(2, "--window: expected a whole number, 0 or more, got '010'", with({"--window", "010"}));
  expect_error(2, "--window: expected a whole number, 0 or more, got '0x10'", with({"--window", "0x10"}));
  expect_error(2, "got '99999999999999999999'", with({"--window", "99999999999999999999"}));
  expect_error(2, "window: expected from 0 to 16777216 keys", with({"--window", "999999999"}));
  expect_error(2, "--sinks: expected a whole number", with({"--sinks", "-1"}));
  expect_error(2, "--threads: expected a whole number", with({"--threads", "010"}));
  expect_error(2, "mix", with({"--mix", "1.5"}));
  expect_error(2, "gate_divisor", with({"--gate-divisor", "-1"}));
  expect_error(2, "f8", with({"--dtype", "f8"}));
  expect_error(2, "--shard-size", with({"--shard-size", "0"}));
  expect_error(2, "--shard-size", with({"--shard-size", "5 parsecs"}));
  expect_error(2, "--shard-size: expected a size such as 5GB, got '-5GB'", with({"--shard-size", "-5GB"}));
  expect_error(2, "--shard-size: expected a size such as 5GB, got '010MB'", with({"--shard-size", "010MB"}));
  expect_error(2, "--shard-size", with({"--shard-size", "0x10"}));
  expect_error(2, "choose another folder", with({"--out", "model"}));
  expect_error(2, "--mix has no meaning", {"--model", "model", "--arch", "softmax", "--mix", "0.5"});
  expect_error(2, "hf download meta-llama/Llama-3.2-1B", {"--model", "llama3.2-1b", "--arch", "gla"});
  expect_error(2, "known are", {"--model", "missing", "--arch", "gla"});
}

TEST_F(ConvertCli, UsageErrorsOfStructures) {
  TinyModel().write(model_);
  const auto with = [&](const char* arch, std::vector<std::string> more) {
    const std::vector<std::string> common = {"--model", "model", "--arch", arch};
    more.insert(more.begin(), common.begin(), common.end());
    return more;
  };
  for (const Structure& structure : structures()) {
    if (structure.uses_divisor) continue;
    expect_error(2, cat("--gate-divisor has no meaning with --arch ", structure.name, ": ", structure.forgets),
                 with(structure.name, {"--gate-divisor", "16"}));
  }
  expect_error(2, "--mix has no meaning with --arch swa: there is no recurrence", with("swa", {"--mix", "0.5"}));
  expect_error(2, "window: expected 1 or more keys, as swa", with("swa", {"--window", "0"}));
  expect_error(2, "--mix has no meaning with --window 0", with("kda", {"--window", "0", "--mix", "0.5"}));
  expect_error(2, "sinks: expected 0", with("kda", {"--window", "0", "--sinks", "4"}));
  expect_error(2, "--keep-softmax: expected less than 3, the number of layers", with("gla", {"--keep-softmax", "7"}));
  expect_error(2, "--keep-softmax: expected a whole number, 1 or more", with("gla", {"--keep-softmax", "0"}));
  expect_error(2, "--keep-softmax excludes --softmax-layers",
               with("gla", {"--softmax-layers", "1", "--keep-softmax", "1"}));
  expect_error(2, "softmax_layers: expected layers from 0 to 2, got 3", with("gla", {"--softmax-layers", "1,3"}));
  expect_error(2, "softmax_layers: expected each layer once", with("gla", {"--softmax-layers", "1,1"}));
  expect_error(2, "with none to linearize; that is --arch softmax", with("gla", {"--softmax-layers", "0,1,2"}));
  for (const char* layers : {"", "1,", ",1", "1;2", "-1", "01", "1, 2"}) {
    expect_error(2, "--softmax-layers: expected layers counted from 0", with("gla", {"--softmax-layers", layers}));
  }
  expect_error(2, "--keep-softmax has no meaning with --arch softmax", with("softmax", {"--keep-softmax", "1"}));
  expect_error(2, "--softmax-layers has no meaning with --arch softmax", with("softmax", {"--softmax-layers", "1"}));
  edit_config([](Json& config) { config["head_dim"] = 1024; });
  expect_error(2, "mlstm keeps head_dim^2 numbers a head", with("mlstm", {}));
}

TEST_F(ConvertCli, BadLigerSettingsInAFile) {
  TinyModel().write(model_);
  ASSERT_EQ(run({"--model", "model", "--arch", "gla", "--out", "linear", "-q"}).exit_code, 0);
  const std::string good = test::read_file(folder_ / "linear/config.json");
  const auto expect_bad = [&](const std::string& text, const std::function<void(Json&)>& edit) {
    Json config = Json::parse(good);
    edit(config);
    test::write_file(folder_ / "linear/config.json", config.dump());
    expect_error(3, text, {"--model", "linear", "--arch", "softmax"});
  };
  expect_bad("linear/config.json: 'liger': window: expected from 0 to", [](Json& c) { c["liger"]["window"] = -3; });
  expect_bad("config.json: 'liger': 'mix': expected a number", [](Json& c) { c["liger"]["mix"] = "half"; });
  expect_bad("config.json: 'liger': unknown key 'wndow'", [](Json& c) { c["liger"]["wndow"] = 3; });
  expect_bad("'liger': recurrence: 'glaa' is not known", [](Json& c) { c["liger"]["recurrence"] = "glaa"; });
  expect_bad("contradicts 'liger'", [](Json& c) { c["liger"]["recurrence"] = "kda"; });
  expect_bad("got 8 twice", [](Json& c) { c["liger"]["softmax_layers"] = {8, 8}; });
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
  expect_bad_model("model_type 'rwkv' is not supported (llama, mistral");
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
