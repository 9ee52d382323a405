#include "liger/ops/linear_cross_entropy.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "liger/error.h"

namespace liger {
namespace {

struct Case {
  int64_t N, D, V;
  bool hidden_grad, weight_grad;
};

struct Inputs {
  at::Tensor hidden, weight, targets;
};

// Every third row has nothing to learn.
Inputs make_inputs(const Case& c, at::ScalarType type) {
  at::manual_seed(1);
  Inputs in{at::randn({c.N, c.D}, at::kDouble), at::randn({c.V, c.D}, at::kDouble), at::randint(c.V, {c.N}, at::kLong)};
  for (int64_t n = 0; n < c.N; n += 3) in.targets[n] = kIgnoredTarget;
  in.hidden = in.hidden.to(type).set_requires_grad(c.hidden_grad);
  in.weight = in.weight.to(type).set_requires_grad(c.weight_grad);
  return in;
}

// The definition, with all logits at once.
at::Tensor plain(const Inputs& in) {
  return at::cross_entropy_loss(at::linear(in.hidden, in.weight), in.targets, {}, /*reduction=sum*/ 2, kIgnoredTarget);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() / b.abs().max().item<double>();
}

class LinearCrossEntropy : public testing::TestWithParam<Case> {};

TEST_P(LinearCrossEntropy, ValueAndGradientsMatchTheDefinition) {
  const Inputs in = make_inputs(GetParam(), at::kDouble), expected = make_inputs(GetParam(), at::kDouble);
  const at::Tensor loss = linear_cross_entropy(in.hidden, in.weight, in.targets);
  const at::Tensor expected_loss = plain(expected);
  EXPECT_NEAR(loss.item<double>(), expected_loss.item<double>(), 1e-12 * expected_loss.item<double>());
  if (!loss.requires_grad()) return;
  (loss * 0.25).backward();
  (expected_loss * 0.25).backward();
  ASSERT_EQ(in.hidden.grad().defined(), GetParam().hidden_grad);
  ASSERT_EQ(in.weight.grad().defined(), GetParam().weight_grad);
  if (GetParam().hidden_grad) {
    EXPECT_LT(largest_difference(in.hidden.grad(), expected.hidden.grad()), 1e-12);
  }
  if (GetParam().weight_grad) {
    EXPECT_LT(largest_difference(in.weight.grad(), expected.weight.grad()), 1e-12);
  }
}

// The last ones need several blocks of rows, and of the vocabulary, not all of them full.
INSTANTIATE_TEST_SUITE_P(Shapes, LinearCrossEntropy,
                         testing::Values(Case{37, 13, 29, true, true}, Case{37, 13, 29, true, false},
                                         Case{37, 13, 29, false, true}, Case{37, 13, 29, false, false},
                                         Case{2, 1, 2, true, true}, Case{421, 3, 33001, true, true},
                                         Case{421, 3, 33001, true, false}, Case{2500, 5, 1025, true, false},
                                         Case{2500, 5, 3071, false, false}));

TEST(LinearCrossEntropyTest, Bf16SumsInFloat32) {
  const Case c{200, 16, 64, true, true};
  const Inputs in = make_inputs(c, at::kBFloat16);
  const at::Tensor loss = linear_cross_entropy(in.hidden, in.weight, in.targets);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  loss.backward();
  EXPECT_EQ(in.weight.grad().scalar_type(), at::kBFloat16);
  Inputs wide{in.hidden.detach().to(at::kDouble).set_requires_grad(true),
              in.weight.detach().to(at::kDouble).set_requires_grad(true), in.targets};
  const at::Tensor expected = plain(wide);
  expected.backward();
  EXPECT_NEAR(loss.item<double>() / expected.item<double>(), 1, 2e-3);
  EXPECT_LT(largest_difference(in.hidden.grad(), wide.hidden.grad()), 2e-2);
  EXPECT_LT(largest_difference(in.weight.grad(), wide.weight.grad()), 2e-2);
}

// The largest logit is met early, late, or grows from piece to piece; probabilities may be far below what a float
// holds.
TEST(LinearCrossEntropyTest, PiecesOfTheVocabularyAreOneSoftmax) {
  for (const double slope : {-0.04, 0.04, 0.0}) {
    Inputs in = make_inputs({50, 4, 5000, true, false}, at::kDouble);
    {
      const at::NoGradGuard no_grad;
      in.hidden.select(1, 0).fill_(1);
      in.weight.select(1, 0).copy_(at::arange(5000, at::kDouble) * slope + 30);
    }
    Inputs narrow = {in.hidden.detach().to(at::kFloat).set_requires_grad(true), in.weight.to(at::kFloat), in.targets};
    Inputs expected = {in.hidden.detach().clone().set_requires_grad(true), in.weight, in.targets};
    const at::Tensor loss = linear_cross_entropy(in.hidden, in.weight, in.targets);
    const at::Tensor narrow_loss = linear_cross_entropy(narrow.hidden, narrow.weight, narrow.targets);
    const at::Tensor expected_loss = plain(expected);
    for (const at::Tensor& item : {loss, narrow_loss, expected_loss}) item.backward();
    EXPECT_NEAR(loss.item<double>() / expected_loss.item<double>(), 1, 1e-12) << slope;
    EXPECT_NEAR(narrow_loss.item<double>() / expected_loss.item<double>(), 1, 1e-5) << slope;
    EXPECT_LT(largest_difference(in.hidden.grad(), expected.hidden.grad()), 1e-12) << slope;
    EXPECT_LT(largest_difference(narrow.hidden.grad(), expected.hidden.grad()), 1e-4) << slope;
  }
}

TEST(LinearCrossEntropyTest, NothingToLearnIsZero) {
  Inputs in = make_inputs({5, 4, 6, true, true}, at::kFloat);
  in.targets.fill_(kIgnoredTarget);
  const at::Tensor loss = linear_cross_entropy(in.hidden, in.weight, in.targets);
  loss.backward();
  EXPECT_EQ(loss.item<float>(), 0);
  EXPECT_EQ(in.hidden.grad().abs().max().item<float>(), 0);
}

TEST(LinearCrossEntropyTest, RefusesWhatItCannotDo) {
  const Inputs in = make_inputs({5, 4, 6, true, true}, at::kFloat);
  EXPECT_THROW(linear_cross_entropy(in.hidden, in.weight.t(), in.targets), Error);
  EXPECT_THROW(linear_cross_entropy(in.hidden, in.weight, in.targets.narrow(0, 0, 3)), Error);
  const at::Tensor loss = linear_cross_entropy(in.hidden, in.weight, in.targets);
  EXPECT_THROW(loss.backward({}, /*retain_graph=*/true, /*create_graph=*/true), Error);
}

}  // namespace
}  // namespace liger
