#include "liger/generate/generate.h"
#include "liger/io/process.h"

#include <gtest/gtest.h>

#include <iterator>

#include "liger/error.h"
#include "list_tokenizer.h"
#include "random_model.h"

namespace liger {
namespace {

using test::ListTokenizer;
using Ids = std::vector<int64_t>;

class Generate : public testing::TestWithParam<bool> {
 protected:
  // Without an end in the config or likely to be met: texts run to max_tokens unless a test says otherwise.
  static ModelConfig config(bool liger) {
    const ListTokenizer tokenizer = ListTokenizer::letters();
    return test::random_config(tokenizer.vocab_size(), liger ? std::optional(test::short_window()) : std::nullopt);
  }
  GenerateOptions options(int64_t max_tokens) const {
    GenerateOptions options;
    options.max_tokens = max_tokens;
    options.ignore_eos = true;
    return options;
  }

  ListTokenizer tokenizer_ = ListTokenizer::letters();
  std::shared_ptr<CausalLM> model_ = test::random_model(config(GetParam()), 11);
};

INSTANTIATE_TEST_SUITE_P(Attention, Generate, testing::Bool(),
                         [](const auto& info) { return info.param ? "liger" : "softmax"; });

TEST_P(Generate, GreedyEqualsFullForwardPasses) {
  Ids ids = encode_prompt(tokenizer_, "once upon");
  const Generation result = generate(*model_, tokenizer_, ids, options(20));
  Ids expected;
  const at::NoGradGuard no_grad;
  for (int i = 0; i < 20; ++i) {
    const at::Tensor hidden = model_->hidden_states(Sequences({ids}));
    expected.push_back(model_->logits(hidden[hidden.size(0) - 1]).argmax().item<int64_t>());
    ids.push_back(expected.back());
  }
  EXPECT_EQ(result.tokens, expected);
  EXPECT_EQ(result.prompt_tokens, 10);
  EXPECT_EQ(result.decode_steps, 19);
  EXPECT_EQ(result.finish_reason, "length");
  EXPECT_GT(result.prefill_tokens_per_second(), 0);
  EXPECT_GT(result.decode_tokens_per_second(), 0);
}

TEST_P(Generate, ReadingThePromptInPiecesChangesNothing) {
  const Ids prompt = encode_prompt(tokenizer_, "a prompt that is longer than a window");
  GenerateOptions whole = options(15), pieces = options(15);
  pieces.prefill_chunk = 7;
  EXPECT_EQ(generate(*model_, tokenizer_, prompt, whole).tokens, generate(*model_, tokenizer_, prompt, pieces).tokens);
}

TEST_P(Generate, PiecesTogetherAreTheText) {
  const Ids prompt = encode_prompt(tokenizer_, "abc");
  std::string streamed;
  const Generation result =
      generate(*model_, tokenizer_, prompt, options(25), [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(streamed, result.text);
  Ids all = prompt;
  all.insert(all.end(), result.tokens.begin(), result.tokens.end());
  // Text that follows a prompt keeps the space its first token may begin with.
  EXPECT_EQ("abc" + result.text, tokenizer_.decode(all, false));
}

TEST_P(Generate, TheSameSeedGivesTheSameText) {
  GenerateOptions sampled = options(30);
  sampled.sampling = {.temperature = 1.0, .top_p = 0.95, .seed = 3};
  const Ids prompt = encode_prompt(tokenizer_, "x");
  const std::string first = generate(*model_, tokenizer_, prompt, sampled).text;
  EXPECT_EQ(generate(*model_, tokenizer_, prompt, sampled).text, first);
  sampled.sampling.seed = 4;
  EXPECT_NE(generate(*model_, tokenizer_, prompt, sampled).text, first);
}

TEST_P(Generate, EndsBeforeAStopString) {
  const Ids prompt = encode_prompt(tokenizer_, "abc");
  const std::string whole = generate(*model_, tokenizer_, prompt, options(25)).text;
  ASSERT_GT(whole.size(), 10u);
  GenerateOptions stopped = options(25);
  stopped.stop = {whole.substr(6, 3)};
  const Generation result = generate(*model_, tokenizer_, prompt, stopped);
  EXPECT_EQ(result.text, whole.substr(0, whole.find(stopped.stop[0])));
  EXPECT_EQ(result.finish_reason, "stop");
}

TEST_P(Generate, EndsAtAnyEosOfTheConfig) {
  const Ids prompt = encode_prompt(tokenizer_, "abc");
  const Generation whole = generate(*model_, tokenizer_, prompt, options(25));
  ModelConfig with_ends = config(GetParam());
  with_ends.eos_token_ids = {1, whole.tokens[4]};
  const auto model = test::random_model(with_ends, 11);
  GenerateOptions ended = options(25);
  ended.ignore_eos = false;
  const Generation result = generate(*model, tokenizer_, prompt, ended);
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[4]);
  EXPECT_EQ(result.tokens, Ids(whole.tokens.begin(), first));
  EXPECT_EQ(result.finish_reason, "stop");
}

TEST(EncodePrompt, AnEmptyOneIsBos) {
  EXPECT_EQ(encode_prompt(ListTokenizer::letters(), ""), (Ids{0}));
  EXPECT_EQ(encode_prompt(ListTokenizer::letters({}, false), ""), (Ids{1}));
}

TEST(GenerateOptions, OutOfRangeIsRefused) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  const auto model = test::random_model(test::random_config(tokenizer.vocab_size()));
  GenerateOptions options;
  options.max_tokens = 0;
  EXPECT_THROW(generate(*model, tokenizer, Ids{0}, options), Error);
  options = {};
  options.stop = {""};
  EXPECT_THROW(generate(*model, tokenizer, Ids{0}, options), Error);
  EXPECT_THROW(generate(*model, tokenizer, Ids{}, {}), Error);
}

TEST(LigerGeneration, TheStateDoesNotGrow) {
  const auto model = test::random_model(test::random_config(50, test::short_window()));
  const c10::InferenceMode inference;
  DecodingState state;
  std::vector<int64_t> bytes;
  for (int i = 0; i < 5; ++i) {
    model->hidden_states(Sequences({Ids(i == 0 ? 20 : 100, 3)}), &state);
    bytes.push_back(state.bytes());
  }
  EXPECT_EQ(bytes.front(), bytes.back());
}

TEST(PeakMemory, IsKnownHere) { EXPECT_GT(peak_memory_bytes(), int64_t{1} << 20); }

}  // namespace
}  // namespace liger
