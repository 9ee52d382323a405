#include "ops/head_scores.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace liger {
namespace {

constexpr int64_t kWidth = 6;

// More tokens and rows than a piece has, several targets a row, rows without any.
std::vector<HeadTarget> make_targets(int64_t rows, int64_t vocab) {
  std::vector<HeadTarget> targets;
  for (int64_t row = 0; row < rows; row += 1 + row % 3)
    for (int64_t i = 0; i <= row % 2; ++i) targets.push_back({row, (row * 37 + i * (vocab - 1)) % vocab});
  return targets;
}

void expect_definition(at::ScalarType type, double softcap, double tolerance) {
  at::manual_seed(1);
  const int64_t rows = 1030, vocab = 2051;
  const at::Tensor hidden = at::randn({rows, kWidth}, type), weight = at::randn({vocab, kWidth}, type);
  at::Tensor z = at::linear(hidden, weight);
  if (softcap != 0) z = at::tanh(z / softcap) * softcap;
  const at::Tensor expected = at::log_softmax(z.to(at::kDouble), 1), best = z.to(at::kDouble).argmax(1);
  std::vector<HeadTarget> targets = make_targets(rows, vocab);
  for (size_t i = 0; i < targets.size(); i += 5) targets[i].token = best[targets[i].row].item<int64_t>();
  const std::vector<HeadScore> scores = head_scores(hidden, weight, targets, softcap);
  ASSERT_EQ(scores.size(), targets.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto [row, token] = targets[i];
    EXPECT_NEAR(scores[i].log_probability, expected[row][token].item<double>(), tolerance) << row << " " << token;
    EXPECT_EQ(scores[i].likeliest, best[row].item<int64_t>() == token) << row << " " << token;
  }
}

TEST(HeadScores, EqualLogSoftmaxOfAllLogits) {
  expect_definition(at::kDouble, 0, 1e-12);
  expect_definition(at::kDouble, 2, 1e-12);
  expect_definition(at::kFloat, 0, 1e-5);
}

TEST(HeadScores, TheFirstOfEqualsIsTheLikeliest) {
  const at::Tensor hidden = at::ones({1, kWidth}), weight = at::zeros({3000, kWidth});
  for (const int64_t equal : {1500, 1501, 2999}) weight[equal].fill_(1);
  const std::vector<HeadTarget> targets = {{0, 0}, {0, 1500}, {0, 1501}, {0, 2999}};
  const std::vector<HeadScore> scores = head_scores(hidden, weight, targets, 0);
  for (size_t i = 0; i < targets.size(); ++i) EXPECT_EQ(scores[i].likeliest, targets[i].token == 1500) << i;
}

TEST(HeadScores, WhatIsNotFiniteDoesNotDisappear) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const at::Tensor hidden = at::ones({2, kWidth}), weight = at::zeros({3000, kWidth});
    hidden[0].fill_(bad);
    weight[2000].fill_(1);
    const std::vector<HeadTarget> targets = {{0, 5}, {1, 5}};
    const std::vector<HeadScore> scores = head_scores(hidden, weight, targets, 0);
    EXPECT_FALSE(std::isfinite(scores[0].log_probability)) << bad;
    EXPECT_TRUE(std::isfinite(scores[1].log_probability)) << bad;
  }
}

}  // namespace
}  // namespace liger
