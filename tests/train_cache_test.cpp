#include <gtest/gtest.h>

#include <csignal>

#include "liger/error.h"
#include "liger/io/process.h"
#include "liger/train/trainer.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::CommandOptions;
using test::CommandResult;
using test::slurp;

class TokenCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "model");
    test::write_text_rows(folder_ / "rows.jsonl", 40);
    write_text_atomic(folder_ / "run.yaml", test::tiny_run(folder_.path()));
  }

  CommandResult run(std::vector<std::string> assignments = {}, const CommandOptions& options = {}) {
    std::vector<std::string> arguments = {(folder_ / "run.yaml").string(), "--threads", "1"};
    for (const std::string& a : assignments) arguments.insert(arguments.end(), {"--set", a});
    return test::run_tool("liger-finetune", arguments, options);
  }
  std::string shared() const { return cat("data.cache=", (folder_ / "cache").string()); }
  // Names in a folder of caches, hidden ones too.
  std::vector<std::string> cached(const std::string& dir) const {
    std::vector<std::string> names;
    if (!fs::exists(folder_ / dir)) return names;
    for (const auto& entry : fs::directory_iterator(folder_ / dir)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  static bool tokenised(const CommandResult& result) { return result.err.find("tokenising ") != std::string::npos; }
  std::string weights(const std::string& run = "run") const {
    return slurp(folder_ / run / "final" / "adapter_model.safetensors");
  }

  test::TemporaryFolder folder_;
};

TEST_F(TokenCacheTest, ARunKeepsItsTokensAndGoesOnWithThem) {
  const CommandResult first = run();
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_TRUE(tokenised(first));
  ASSERT_EQ(cached("run/tokens").size(), 1u);
  const fs::path cache = folder_ / "run" / "tokens" / cached("run/tokens")[0];
  verify_manifest(cache);
  const Json key = read_json(cache / "cache.json");
  EXPECT_EQ(key["data_sha256"], sha256_file(folder_ / "rows.jsonl"));
  EXPECT_EQ(key["format"], "text");

  const CommandResult longer = run({"train.max_steps=10"});
  ASSERT_EQ(longer.exit_code, 0) << longer.err;
  EXPECT_FALSE(tokenised(longer)) << longer.err;
  EXPECT_NE(longer.err.find("going on from"), std::string::npos);
}

TEST_F(TokenCacheTest, RunsShareAFolder) {
  ASSERT_TRUE(tokenised(run({shared()})));
  const std::string straight = weights();
  EXPECT_FALSE(fs::exists(folder_ / "run" / "tokens"));
  const auto once = cached("cache");
  ASSERT_EQ(once.size(), 1u);
  const CommandResult other = run({shared(), cat("save.dir=", (folder_ / "other").string())});
  ASSERT_EQ(other.exit_code, 0) << other.err;
  EXPECT_FALSE(tokenised(other)) << other.err;
  EXPECT_EQ(weights("other"), straight);
  EXPECT_EQ(cached("cache"), once);
  // And a run without it learns the same.
  ASSERT_EQ(run({cat("save.dir=", (folder_ / "third").string())}).exit_code, 0);
  EXPECT_EQ(weights("third"), straight);
}

TEST_F(TokenCacheTest, WhatDecidesTheTokensDecidesTheFolder) {
  const auto fresh = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {shared(), "save.overwrite=true", "save.resume=never", "train.max_steps=1"};
    all.insert(all.end(), more.begin(), more.end());
    const CommandResult result = run(all);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return tokenised(result);
  };
  EXPECT_TRUE(fresh({}));
  EXPECT_FALSE(fresh({}));
  EXPECT_FALSE(fresh({"data.max_length=32", "data.pack=none", "train.seed=3"}));
  std::string rows = slurp(folder_ / "rows.jsonl");
  write_text_atomic(folder_ / "rows.jsonl", rows + "{\"text\": \"one more\"}\n");
  EXPECT_TRUE(fresh({}));
  write_text_atomic(folder_ / "rows.jsonl", rows);
  EXPECT_FALSE(fresh({}));
  write_text_atomic(folder_ / "model" / "tokenizer_config.json", R"({"bos_token": "</s>", "eos_token": "</s>"})");
  EXPECT_TRUE(fresh({}));
  EXPECT_EQ(cached("cache").size(), 3u);
}

TEST_F(TokenCacheTest, WhatIsDamagedIsMadeAgain) {
  ASSERT_EQ(run({shared()}).exit_code, 0);
  const std::string straight = weights();
  const fs::path cache = folder_ / "cache" / cached("cache").at(0);
  const std::string good = slurp(cache / "tokens");
  const auto damage = [&](const std::function<void()>& how) {
    how();
    fs::remove_all(folder_ / "run");
    const CommandResult result = run({shared()});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(tokenised(result));
    EXPECT_NE(result.err.find("the tokens are made again"), std::string::npos) << result.err;
    EXPECT_EQ(slurp(cache / "tokens"), good);
    EXPECT_EQ(weights(), straight);
  };
  damage([&] {
    std::string bytes = good;
    bytes[40] ^= 1;
    write_text_atomic(cache / "tokens", bytes);
  });
  damage([&] { fs::resize_file(cache / "rows", 8); });
  damage([&] { fs::remove(cache / "tokens"); });
}

TEST_F(TokenCacheTest, ARunThatCannotBeginLeavesNothing) {
  const CommandResult result = run({"lora.targets=[q_prj]"});
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_TRUE(tokenised(result));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  write_text_atomic(folder_ / "rows.jsonl", slurp(folder_ / "rows.jsonl") + "{\"text\": 5}\n");
  EXPECT_EQ(run({shared()}).exit_code, 3);
  EXPECT_FALSE(fs::exists(folder_ / "cache"));
}

TEST_F(TokenCacheTest, AnotherRunsTokensGoWithIt) {
  ASSERT_EQ(run().exit_code, 0);
  const auto before = cached("run/tokens");
  test::write_text_rows(folder_ / "rows.jsonl", 44);
  ASSERT_EQ(run({"save.overwrite=true", "save.resume=never"}).exit_code, 0);
  EXPECT_EQ(cached("run/tokens").size(), 1u);
  EXPECT_NE(cached("run/tokens"), before);
}

TEST_F(TokenCacheTest, TheSameFileTwiceIsTokenisedOnce) {
  const CommandResult result = run({cat("data.val=", (folder_ / "rows.jsonl").string())});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err.find("tokenising "), result.err.rfind("tokenising ")) << result.err;
  EXPECT_EQ(cached("run/tokens").size(), 1u);
}

// Two runs that begin together: one tokenises, the other waits for it.
TEST_F(TokenCacheTest, ARunWaitsForAnotherThatTokenises) {
  test::write_text_rows(folder_ / "rows.jsonl", 20000);
  CommandOptions options;
  std::optional<CommandResult> second;
  options.on_stderr = [&](pid_t, const std::string& text) {
    if (second || text.find("tokenising ") == std::string::npos) return;
    second = run({shared(), "train.max_steps=1", cat("save.dir=", (folder_ / "second").string())});
  };
  const CommandResult first = run({shared(), "train.max_steps=1"}, options);
  ASSERT_TRUE(second);
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(second->exit_code, 0) << second->err;
  EXPECT_FALSE(tokenised(*second)) << second->err;
  EXPECT_EQ(cached("cache").size(), 1u);
}

TEST_F(TokenCacheTest, AKillWhileTokenisingLeavesNothingThatLasts) {
  test::write_text_rows(folder_ / "rows.jsonl", 20000);
  CommandOptions options;
  options.on_stderr = [&](pid_t pid, const std::string& text) {
    if (text.find("tokenising ") != std::string::npos) kill(pid, SIGKILL);
  };
  EXPECT_EQ(run({shared()}, options).exit_code, 128 + SIGKILL);
  const CommandResult again = run({shared(), "train.max_steps=1"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_TRUE(tokenised(again));
  EXPECT_EQ(cached("cache").size(), 1u);
}

TEST_F(TokenCacheTest, MemoryDoesNotGrowWithTheFile) {
  {
    std::ofstream out(folder_ / "large.jsonl");
    const std::string row = Json{{"text", std::string(2000, 'x')}}.dump() + "\n";
    for (int i = 0; i < 10000; ++i) out << row;  // 20 MB, which are 80 MB of tokens
  }
  const auto tokenizer = Tokenizer::load(folder_ / "model");
  DataOptions options;
  options.format = DataFormat::kText;
  const int64_t before = peak_memory_bytes();
  const auto corpus = test::make_corpus(folder_ / "large.jsonl", options, *tokenizer, tokenizer->vocab_size());
  EXPECT_EQ(corpus->rows(), 10000);
  EXPECT_EQ(corpus->end(9999), 10000 * 2002);
  EXPECT_EQ(fs::file_size(folder_ / "large.jsonl.tokens" / "tokens"), 10000u * 2002 * 4);
  EXPECT_LT(peak_memory_bytes() - before, int64_t{48} << 20);
}

}  // namespace
}  // namespace liger
