#include "liger/eval/scoring.h"

#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <optional>
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

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
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

// Sequences that grow from earlier ones: prefixes shared at several levels, contexts that are prefixes of others or
// end inside another's continuation, duplicates, the same tokens divided elsewhere; and some that lost their beginning
// to a maximum length.
std::vector<ScoreRequest> grown_requests(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Ids> texts = {random_ids(random, 1), random_ids(random, 23)};
  std::vector<ScoreRequest> requests;
  for (int i = 0; i < 40; ++i) {
    Ids text = texts[random() % texts.size()];
    text.resize(1 + random() % text.size());
    text = joined(std::move(text), random_ids(random, static_cast<int64_t>(1 + random() % 9)));
    texts.push_back(text);
    constexpr size_t kMaxLength = 40;
    if (text.size() > kMaxLength) text.erase(text.begin(), text.end() - kMaxLength);
    const auto context = static_cast<int64_t>(1 + random() % (text.size() - 1));
    requests.push_back({{text.begin(), text.begin() + context}, {text.begin() + context, text.end()}});
    if (random() % 5 == 0) requests.push_back(requests[random() % requests.size()]);
  }
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

enum class Kind { kSoftmax, kLiger, kHybrid };

ModelConfig config_of(Kind kind) {
  if (kind == Kind::kSoftmax) return test::random_config(kVocab);
  LigerConfig liger = test::short_window();
  if (kind == Kind::kHybrid) liger.softmax_layers = {0};
  return test::random_config(kVocab, liger);
}

class Scoring : public testing::TestWithParam<Kind> {
 protected:
  std::shared_ptr<CausalLM> model_ = test::random_model(config_of(GetParam()), 3, at::kDouble);
};

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  switch (info.param) {
    case Kind::kSoftmax: return "softmax";
    case Kind::kLiger: return "liger";
    default: return "hybrid";
  }
}

INSTANTIATE_TEST_SUITE_P(Attention, Scoring, testing::Values(Kind::kSoftmax, Kind::kLiger, Kind::kHybrid), name_of);

std::vector<Score> plain_scores(CausalLM& model, const std::vector<ScoreRequest>& requests) {
  std::vector<Score> out;
  for (const ScoreRequest& request : requests) out.push_back(plain_score(model, request));
  return out;
}

// The largest difference, relative where it is above one.
double worst_of(const std::vector<Score>& scores, const std::vector<Score>& expected) {
  double worst = scores.size() == expected.size() ? 0.0 : 1e9;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(scores[i].log_likelihood - expected[i].log_likelihood);
    worst = std::max(worst, difference / std::max(1.0, std::abs(expected[i].log_likelihood)));
  }
  return worst;
}

// Ways of reading them: one at a time, a few, as many as fit into few or many tokens; shared or not.
std::vector<ScoringOptions> all_options() {
  std::vector<ScoringOptions> out;
  for (const PrefixSharing sharing : {PrefixSharing::kNone, PrefixSharing::kWhereFaster, PrefixSharing::kAlways}) {
    for (const int64_t batch_size : {0, 1, 3}) {
      for (const int64_t tokens : batch_size == 0 ? std::vector<int64_t>{1, 60, 4096} : std::vector<int64_t>{4096}) {
        ScoringOptions options;
        options.batch_size = batch_size;
        options.tokens_per_batch = tokens;
        options.sharing = sharing;
        out.push_back(options);
      }
    }
  }
  return out;
}

std::string described(const ScoringOptions& options) {
  return cat("sharing ", static_cast<int>(options.sharing), " batch ", options.batch_size, " tokens ",
             options.tokens_per_batch);
}

TEST_P(Scoring, PrefixesSharedAtSeveralLevelsChangeNothing) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    const std::vector<ScoreRequest> requests = grown_requests(seed);
    const std::vector<Score> expected = plain_scores(*model_, requests);
    for (const ScoringOptions& options : all_options()) {
      const std::vector<Score> scores = score(*model_, requests, options);
      EXPECT_LT(worst_of(scores, expected), 1e-10) << described(options) << " seed " << seed;
      for (size_t i = 0; i < scores.size(); ++i) EXPECT_EQ(scores[i].greedy, expected[i].greedy) << i;
    }
  }
}

TEST_P(Scoring, EveryRequestIsReportedOnceWithItsScore) {
  const std::vector<ScoreRequest> requests = grown_requests(4);
  ScoringOptions options;
  options.tokens_per_batch = 60;
  options.sharing = PrefixSharing::kAlways;
  std::map<int64_t, double> reported;
  options.finished = [&](int64_t request, const Score& score) {
    EXPECT_TRUE(reported.emplace(request, score.log_likelihood).second) << request;
  };
  const std::vector<Score> scores = score(*model_, requests, options);
  ASSERT_EQ(reported.size(), requests.size());
  for (const auto& [request, value] : reported) EXPECT_EQ(value, scores[static_cast<size_t>(request)].log_likelihood);
}

TEST_P(Scoring, WhatIsKnownOfSomeChangesNoScore) {
  const std::vector<ScoreRequest> requests = grown_requests(6);
  std::mt19937 random(1);
  for (ScoringOptions options : all_options()) {
    const std::vector<Score> expected = score(*model_, requests, options);
    std::vector<std::optional<Score>> known(requests.size());
    for (size_t i = 0; i < known.size(); ++i)
      if (random() % 8 > 0) known[i] = expected[i];
    options.known = [&](int64_t request) { return known[static_cast<size_t>(request)]; };
    int64_t last = 0;
    const std::vector<Score> scores = score(*model_, requests, options, [&](int64_t done) { last = done; });
    for (size_t i = 0; i < scores.size(); ++i)
      EXPECT_EQ(scores[i].log_likelihood, expected[i].log_likelihood) << described(options) << " request " << i;
    EXPECT_LE(last, std::ssize(requests)) << described(options);
  }
}

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
  const std::vector<Score> expected = plain_scores(*model_, requests);
  EXPECT_TRUE(expected.back().greedy);

  for (const PrefixSharing sharing : {PrefixSharing::kNone, PrefixSharing::kWhereFaster, PrefixSharing::kAlways}) {
    for (const int64_t batch_size : {0, 1, 3}) {
      ScoringOptions options;
      options.sharing = sharing;
      options.batch_size = batch_size;
      if (batch_size == 0) options.tokens_per_batch = 60;  // several batches, several forks in each
      const std::vector<Score> scores = score(*model_, requests, options);
      ASSERT_EQ(scores.size(), expected.size());
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_NEAR(scores[i].log_likelihood, expected[i].log_likelihood, 1e-9)
            << "request " << i << " sharing " << static_cast<int>(sharing) << " batch " << batch_size;
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

TEST(ScoringDtypes, SharingRoundsAsTheDtypeDoes) {
  for (const Kind kind : {Kind::kSoftmax, Kind::kLiger, Kind::kHybrid}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const auto model = test::random_model(config_of(kind), 3, dtype);
      const std::vector<ScoreRequest> requests = grown_requests(5);
      const std::vector<Score> expected = plain_scores(*model, requests);
      for (const ScoringOptions& options : all_options()) {
        EXPECT_LT(worst_of(score(*model, requests, options), expected), dtype == at::kFloat ? 1e-5 : 0.05)
            << described(options) << " kind " << static_cast<int>(kind) << " " << dtype;
      }
    }
  }
}

TEST(ScoringDtypes, Float32KeepsMoreThanTheModelsSoftmax) {
  const auto model = test::random_model(test::random_config(kVocab), 3, at::kBFloat16);
  const std::vector<ScoreRequest> requests = make_requests();
  ScoringOptions rounded;
  rounded.model_softmax = true;
  rounded.sharing = PrefixSharing::kNone;
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
