// liger-generate as users run it.

#include <gtest/gtest.h>

#include <algorithm>

#include "command.h"
#include "liger/io/json.h"
#include "model_folder.h"

namespace liger {
namespace {

using test::CommandResult;

class GenerateTool : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new test::TemporaryFolder;
    test::write_model_folder(*shared_ / "plain", {}, 5);
    test::write_model_folder(*shared_ / "liger", test::short_window(), 5);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  CommandResult run(std::vector<std::string> arguments, const std::string& model = "plain") const {
    std::vector<std::string> all = {"--model", (*shared_ / model).string(), "--ignore-eos", "--threads", "1"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return test::run_tool("liger-generate", all);
  }

  static test::TemporaryFolder* shared_;
  test::TemporaryFolder folder_;
};

test::TemporaryFolder* GenerateTool::shared_ = nullptr;

TEST_F(GenerateTool, JsonAndTextAgree) {
  for (const char* model : {"plain", "liger"}) {
    const CommandResult text = run({"--prompt", "The tiger", "--max-tokens", "12"}, model);
    const CommandResult json = run({"--prompt", "The tiger", "--max-tokens", "12", "--json"}, model);
    ASSERT_EQ(text.exit_code, 0) << text.err;
    ASSERT_EQ(json.exit_code, 0) << json.err;
    const Json document = parse_json(json.out, "stdout");
    EXPECT_EQ(document.at("text").get<std::string>() + "\n", text.out);
    EXPECT_EQ(document.at("generated_tokens"), 12);
    EXPECT_EQ(document.at("prompt_tokens").get<size_t>(),
              Tokenizer::load(*shared_ / model)->encode_with_specials("The tiger").size());
    EXPECT_GT(document.at("prefill_tokens_per_second").get<double>(), 0);
    EXPECT_GT(document.at("decode_tokens_per_second").get<double>(), 0);
    EXPECT_GT(document.at("peak_memory_bytes").get<int64_t>(), int64_t{1} << 20);
  }
}

// The template writes what could also be typed, and the end of a turn ends the text.
TEST_F(GenerateTool, AChatIsThePromptInItsTemplate) {
  const auto same = [&](const std::vector<std::string>& chat, const std::string& typed) {
    std::vector<std::string> all = {"--prompt", "The tiger", "--max-tokens", "6", "--json"};
    const CommandResult raw = run({"--prompt", typed, "--max-tokens", "6", "--json"});
    all.insert(all.end(), chat.begin(), chat.end());
    const CommandResult told = run(all);
    ASSERT_EQ(told.exit_code, 0) << told.err;
    EXPECT_EQ(parse_json(told.out, "a").at("text"), parse_json(raw.out, "b").at("text"));
    EXPECT_EQ(parse_json(told.out, "a").at("prompt_tokens"), parse_json(raw.out, "b").at("prompt_tokens"));
  };
  same({"--chat-template", "llama3"},
       "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nThe tiger<|eot_id|>"
       "<|start_header_id|>assistant<|end_header_id|>\n\n");
  const std::string with_system =
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
      "<|start_header_id|>user<|end_header_id|>\n\nThe tiger<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n";
  same({"--chat-template", "auto", "--system-prompt", "Be brief."}, with_system);
  same({"--system-prompt", "Be brief."}, with_system);

  const auto refused = [&](const std::vector<std::string>& more, const std::string& part) {
    std::vector<std::string> all = {"--prompt", "a"};
    all.insert(all.end(), more.begin(), more.end());
    const CommandResult result = run(all);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  };
  refused({"--chat-template", "nope"}, "--chat-template: 'nope' is no template that is built in");
  refused({"--chat-template", "gemma"}, "--chat-template: gemma needs the special token <start_of_turn>");
  refused({"--chat-template", "auto", "--state-in", "x"}, "expected no --state-in");
}

TEST_F(GenerateTool, ThePromptMayComeFromAFile) {
  std::ofstream(folder_ / "prompt.txt") << "The tiger\n";
  const CommandResult given = run({"--prompt", "The tiger", "--max-tokens", "6"});
  const CommandResult file = run({"-f", (folder_ / "prompt.txt").string(), "--max-tokens", "6"});
  EXPECT_EQ(file.exit_code, 0) << file.err;
  EXPECT_EQ(file.out, given.out);
}

TEST_F(GenerateTool, AnEmptyStandardInputIsTheBareBos) {
  const CommandResult standard = run({"--max-tokens", "6", "--json"});
  const CommandResult given = run({"--prompt", "", "--max-tokens", "6", "--json"});
  ASSERT_EQ(standard.exit_code, 0) << standard.err;
  EXPECT_EQ(parse_json(standard.out, "a").at("prompt_tokens"), 1);
  EXPECT_EQ(parse_json(standard.out, "a").at("text"), parse_json(given.out, "b").at("text"));
}

TEST_F(GenerateTool, SeedsAndStops) {
  const std::vector<std::string> sampled = {"--prompt", "a", "--temp", "1", "--top-p", "0.9", "--max-tokens", "15"};
  const auto text = [&](std::vector<std::string> more) {
    more.insert(more.end(), sampled.begin(), sampled.end());
    const CommandResult result = run(std::move(more));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out.substr(0, result.out.size() - 1);
  };
  const std::string first = text({"--seed", "1"});
  EXPECT_EQ(text({"--seed", "1"}), first);
  EXPECT_NE(text({"--seed", "2"}), first);
  size_t at = first.size() / 2;
  while ((first[at] & 0xc0) == 0x80) ++at;  // not in the middle of a character
  size_t end = at + 1;
  while (end < first.size() && (first[end] & 0xc0) == 0x80) ++end;
  const std::string stop = first.substr(at, end - at);
  EXPECT_EQ(text({"--seed", "1", "--stop", "never there", "--stop", stop}), first.substr(0, first.find(stop)));
}

TEST_F(GenerateTool, StatsGoToStandardError) {
  const CommandResult result = run({"--prompt", "a", "--max-tokens", "3", "--stats", "--quiet"});
  EXPECT_EQ(result.out.find("tokens/s"), std::string::npos);
  EXPECT_NE(result.err.find("generation: 3 tokens"), std::string::npos) << result.err;
}

TEST_F(GenerateTool, ATextLongerThanTheModelIsSaidSo) {
  EXPECT_NE(run({"--prompt", "a", "--max-tokens", "70"}).err.find("more than the 64 positions"), std::string::npos);
  EXPECT_EQ(run({"--prompt", "a", "--max-tokens", "70"}, "liger").err.find("positions"), std::string::npos);
}

TEST_F(GenerateTool, Errors) {
  const auto expect = [&](std::vector<std::string> arguments, int code, const std::string& text) {
    const CommandResult result = run(std::move(arguments));
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect({"--prompt", "a", "--top-p", "1.5"}, 2, "top-p must be above 0 and at most 1, got 1.5");
  expect({"--prompt", "a", "--temp", "-1"}, 2, "temperature must be 0 or more, got -1");
  expect({"--prompt", "a", "--max-tokens", "0"}, 2, "max-tokens must be 1 or more, got 0");
  expect({"--prompt", "a", "--stop", ""}, 2, "a stop string must not be empty");
  expect({"--prompt", "a", "--dtype", "f31"}, 2, "f31");
  expect({"--prompt", "a", "-f", "x"}, 2, "-f");
  expect({"-f", (folder_ / "none.txt").string()}, 4, "none.txt");
}

}  // namespace
}  // namespace liger
