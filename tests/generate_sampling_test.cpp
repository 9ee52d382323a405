#include "liger/generate/sampling.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "liger/error.h"

namespace liger {
namespace {

std::vector<float> random_logits(uint64_t seed, int count) {
  std::mt19937_64 random(seed);
  std::vector<float> logits(count);
  for (float& x : logits) x = static_cast<float>(static_cast<double>(random() >> 11) * 0x1p-53 * 12 - 6);
  return logits;
}

// The definition in the header, word for word, in float64: the probability of every token.
std::map<int64_t, double> plain(const std::vector<float>& logits, const SamplingOptions& options) {
  std::vector<std::pair<double, int64_t>> order;
  for (size_t id = 0; id < logits.size(); ++id) {
    order.emplace_back(-std::exp(logits[id] / options.temperature), static_cast<int64_t>(id));
  }
  std::sort(order.begin(), order.end());
  if (options.top_k > 0 && options.top_k < std::ssize(order)) order.resize(options.top_k);
  double all = 0;
  for (const auto& [minus_p, id] : order) all -= minus_p;
  size_t kept = 0;
  double reached = 0;
  while (kept < order.size() && (options.top_p == 1 || kept == 0 || reached < options.top_p * all)) {
    reached -= order[kept++].first;
  }
  order.resize(kept);
  const double least = options.min_p * -order.front().first;
  std::erase_if(order, [&](const auto& entry) { return -entry.first < least; });
  double left = 0;
  for (const auto& [minus_p, id] : order) left -= minus_p;
  std::map<int64_t, double> p;
  for (const auto& [minus_p, id] : order) p[id] = -minus_p / left;
  return p;
}

TEST(Candidates, EqualThePlainDefinition) {
  const SamplingOptions cases[] = {
      {.temperature = 1.0},
      {.temperature = 0.3},
      {.temperature = 1.0, .top_k = 1},
      {.temperature = 1.5, .top_k = 7},
      {.temperature = 1.0, .top_p = 0.5},
      {.temperature = 0.7, .top_p = 0.95},
      {.temperature = 1.0, .top_p = 0.01},
      {.temperature = 1.0, .min_p = 0.1},
      {.temperature = 1.2, .top_k = 20, .top_p = 0.9, .min_p = 0.05},
      {.temperature = 1.0, .top_k = 1000, .top_p = 1.0, .min_p = 1.0},
  };
  for (const SamplingOptions& options : cases) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> logits = random_logits(seed, 300);
      const std::map<int64_t, double> expected = plain(logits, options);
      const std::vector<Candidate> actual = candidates(logits, options);
      double total = 0;
      for (const Candidate& token : actual) total += token.weight;
      ASSERT_EQ(actual.size(), expected.size());
      auto wanted = expected.begin();
      for (const Candidate& token : actual) {
        EXPECT_EQ(token.id, wanted->first);
        EXPECT_NEAR(token.weight / total, wanted->second, 1e-6);
        ++wanted;
      }
    }
  }
}

TEST(Candidates, EqualLogitsGoByTheirIds) {
  const std::vector<float> logits = {1, 2, 2, 2, 0};
  std::vector<int64_t> ids;
  for (const Candidate& token : candidates(logits, {.temperature = 1.0, .top_k = 2})) ids.push_back(token.id);
  EXPECT_EQ(ids, (std::vector<int64_t>{1, 2}));
}

TEST(Candidates, ImpossibleTokensAndTinyTemperatures) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(candidates(std::vector<float>{kNever, 1, kNever}, {.temperature = 1.0}).size(), 1u);
  EXPECT_EQ(candidates(std::vector<float>{1, 3, 2}, {.temperature = 1e-300}).size(), 1u);
}

TEST(Sampler, FrequenciesFollowTheProbabilities) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  const SamplingOptions options{.temperature = 1.0, .seed = 5};
  const std::map<int64_t, double> p = plain(logits, options);
  Sampler sampler(options);
  std::vector<int> counts(4);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(at::tensor(logits))];
  for (int id = 0; id < 4; ++id) {
    const double deviation = std::sqrt(p.at(id) * (1 - p.at(id)) * kDraws);
    EXPECT_NEAR(counts[id], p.at(id) * kDraws, 5 * deviation) << id;
  }
}

TEST(Sampler, SeedDecides) {
  const at::Tensor logits = at::tensor(random_logits(1, 100));
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1.0, .seed = seed});
    std::vector<int64_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(logits));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, ZeroTemperatureTakesTheFirstOfTheHighest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(at::tensor({1.0f, 3.0f, 3.0f, 2.0f})), 1);
  EXPECT_EQ(sampler.sample(at::tensor({1.0f, 3.0f, 3.0f, 4.0f}).to(at::kBFloat16).unsqueeze(0)), 3);
}

TEST(Sampler, WhatIsNotFiniteIsRefused) {
  Sampler sampler({});
  EXPECT_THROW(sampler.sample(at::tensor({1.0f, std::nanf("")})), Error);
  EXPECT_THROW(sampler.sample(at::tensor({std::numeric_limits<float>::infinity(), 0.0f})), Error);
}

TEST(Sampler, OptionsOutOfRangeAreRefused) {
  EXPECT_THROW(Sampler({.temperature = -1.0}), Error);
  EXPECT_THROW(Sampler({.temperature = std::nan("")}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0.0}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.1}), Error);
  EXPECT_THROW(Sampler({.min_p = 1.1}), Error);
}

}  // namespace
}  // namespace liger
