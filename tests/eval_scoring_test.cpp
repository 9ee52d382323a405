#include "liger/eval/scoring.h"

#include <gtest/gtest.h>

#include <iterator>
#include <random>

#include "liger/error.h"
#include "random_model.h"

namespace liger {
namespace {

constexpr int64_t kVocab = 50;
using Ids = std::vector<int64_t>;

Ids random_ids(std::mt19937& random, int64_t count) {
  Ids ids(count);
  for (int64_t& id : ids) id = static_cast<int64_t>(random() % kVocab);
  return ids;
}

// Questions with several choices each, some continuations of one token, and requests that stand alone.
std::vector<ScoreRequest> make_requests() {
  std::mt19937 random(7);
  std::vector<ScoreRequest> requests;
  for (const int64_t context : {9, 3, 17, 12, 1, 9}) {
    const Ids ids = random_ids(random, context);
    for (const int64_t continuation : {1, 4, 2, 1}) requests.push_back({ids, random_ids(random, continuation)});
  }
  for (const int64_t length : {5, 1, 30}) requests.push_back({random_ids(random, length), random_ids(random, 6)});
  return requests;
}

// The definition: one forward pass a request, log-softmax in float64 over what it predicts.
Score plain_score(CausalLM& model, const ScoreRequest& request) {
  const at::NoGradGuard no_grad;
  Ids input = request.context;
  input.insert(input.end(), request.continuation.begin(), request.continuation.end());
  input.pop_back();
  const at::Tensor logits = model.logits(model.hidden_states(Sequences({input}))).to(at::kDouble);
  Score score;
  for (size_t i = 0; i < request.continuation.size(); ++i) {
    const at::Tensor row = logits[static_cast<int64_t>(request.context.size() + i) - 1];
    score.log_likelihood += row.log_softmax(0)[request.continuation[i]].item<double>();
    score.greedy = score.greedy && row.argmax().item<int64_t>() == request.continuation[i];
  }
  return score;
}

class Scoring : public testing::TestWithParam<bool> {
 protected:
  std::shared_ptr<CausalLM> model_ = test::random_model(
      test::random_config(kVocab, GetParam() ? std::optional(test::short_window()) : std::nullopt), 3, at::kDouble);
};

INSTANTIATE_TEST_SUITE_P(Attention, Scoring, testing::Bool(),
                         [](const auto& info) { return info.param ? "liger" : "softmax"; });

TEST_P(Scoring, EqualsTheDefinitionHoweverItIsBatched) {
  std::vector<ScoreRequest> requests = make_requests();
  // One continuation that is greedy, so that the flag is seen to be set.
  requests.push_back({requests[0].context, {}});
  const at::NoGradGuard no_grad;
  Ids input = requests[0].context;
  for (int i = 0; i < 3; ++i) {
    const at::Tensor hidden = model_->hidden_states(Sequences({input}));
    input.push_back(model_->logits(hidden[hidden.size(0) - 1]).argmax().item<int64_t>());
    requests.back().continuation.push_back(input.back());
  }
  std::vector<Score> expected;
  for (const ScoreRequest& request : requests) expected.push_back(plain_score(*model_, request));
  EXPECT_TRUE(expected.back().greedy);

  for (const bool share : {false, true}) {
    for (const int64_t batch_size : {0, 1, 3}) {
      ScoringOptions options;
      options.share_contexts = share;
      options.batch_size = batch_size;
      if (batch_size == 0) options.tokens_per_batch = 60;  // several batches, several forks in each
      const std::vector<Score> scores = score(*model_, requests, options);
      ASSERT_EQ(scores.size(), expected.size());
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_NEAR(scores[i].log_likelihood, expected[i].log_likelihood, 1e-9)
            << "request " << i << " share " << share << " batch " << batch_size;
        EXPECT_EQ(scores[i].greedy, expected[i].greedy) << "request " << i;
      }
    }
  }
}

TEST_P(Scoring, ReportsProgressUpToTheLastRequest) {
  const std::vector<ScoreRequest> requests = make_requests();
  ScoringOptions options;
  options.tokens_per_batch = 60;
  std::vector<int64_t> seen;
  score(*model_, requests, options, [&](int64_t done) { seen.push_back(done); });
  ASSERT_GT(seen.size(), 2u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), std::ssize(requests));
}

TEST_P(Scoring, IdsOutsideOfTheVocabularyAreRefused) {
  const std::vector<ScoreRequest> requests = {{{1}, {kVocab}}};
  EXPECT_THROW(score(*model_, requests), Error);
}

TEST(ScoringDtypes, Float32KeepsMoreThanTheModelsSoftmax) {
  const auto model = test::random_model(test::random_config(kVocab), 3, at::kBFloat16);
  const std::vector<ScoreRequest> requests = make_requests();
  ScoringOptions rounded;
  rounded.model_softmax = true;
  rounded.share_contexts = false;
  ScoringOptions exact = rounded;
  exact.model_softmax = false;
  const std::vector<Score> a = score(*model, requests, rounded), b = score(*model, requests, exact);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_NEAR(a[i].log_likelihood, b[i].log_likelihood, 0.02 * std::abs(b[i].log_likelihood) + 0.02);
    if (requests[i].continuation.size() > 1) continue;
    // A single log-probability rounded to bfloat16 has no bits beyond it.
    const auto value = static_cast<float>(a[i].log_likelihood);
    EXPECT_EQ(std::bit_cast<uint32_t>(value) & 0xffffu, 0u);
  }
}

TEST(ScoringDtypes, WeightsThatDoNotHoldAreReported) {
  const auto model = test::random_model(test::random_config(kVocab));
  {
    const at::NoGradGuard no_grad;
    model->parameters()[0].mul_(std::numeric_limits<float>::infinity());
  }
  const std::vector<ScoreRequest> requests = {{{1}, {2}}};
  EXPECT_THROW(score(*model, requests), Error);
}

}  // namespace
}  // namespace liger
