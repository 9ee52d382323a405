// What a linearized layer may choose beyond the paper: features, rotation, normalizer, a state beyond the window,
// numbers of heads. The compiled code against the definition, gradients of the numbers included; and one definition by
// another: softmax attention in two pieces.

#include <ATen/core/grad_mode.h>

#include "mix_testing.h"
#include "nn/fused_mix.h"

namespace liger {
namespace {

using testing::expect_close;
using testing::expect_equal_to_definition;
using testing::expect_splitting_changes_nothing;
using testing::MixShape;
using testing::random_inputs;

struct Choice {
  const char* name;
  const char* structure;
  std::optional<FeatureMap> features;
  std::optional<Normalizer> normalizer;
  bool rotates, beyond_window;
};

constexpr auto kExp = FeatureMap::kExpPair, kSoftmaxPair = FeatureMap::kSoftmaxPair;
const Choice kChoices[] = {
    {"recommended", "gated-retention", kExp, Normalizer::kShared, true, true},
    {"shared_all", "gated-retention", kExp, Normalizer::kShared, true, false},
    {"shared_softmax", "gla", kSoftmaxPair, Normalizer::kShared, false, true},
    {"own", "gla", kSoftmaxPair, Normalizer::kOwn, true, true},
    {"own_all", "mamba2", FeatureMap::kSoftmax, Normalizer::kOwn, false, false},
    {"own_complement", "hgrn2", {}, Normalizer::kOwn, false, true},
    {"plain_pair", "linear", kSoftmaxPair, {}, false, false},
    {"identity", "retnet", FeatureMap::kIdentity, {}, true, true},
    {"exp_decay", "rwkv6", {}, {}, true, true},
    {"mlstm", "mlstm", {}, {}, true, true},
    {"delta", "gated-deltanet", {}, {}, true, true},
    {"delta_all", "kda", {}, {}, true, false},
    {"slots", "gsa", {}, {}, true, true},
};

MixSettings settings_of(const Choice& choice, int64_t window, int64_t sinks) {
  MixSettings settings = {.recurrence = {.layer = 1, .layers = 4}, .window = window, .sinks = sinks};
  settings.recurrence.structure = with_choices(*find_structure(choice.structure), choice.features, choice.normalizer);
  settings.rotates_features = choice.rotates;
  settings.beyond_window = choice.beyond_window;
  settings.window_share = 0.4;
  return settings;
}

// Numbers of heads around their defaults.
at::Tensor random_scalars(int64_t H) {
  at::Tensor out = at::randn({kHeadScalars, H}, at::kDouble) * 0.3;
  for (const HeadScalar row : {kWindowWeight, kLinearWeight, kQueryScale, kKeyScale}) out[row] += 0.7;
  return out.to(at::kFloat);
}

// States that could be: those of features that are not negative have sums of keys that are not either.
void make_possible(const MixSettings& settings, MixInputs& in) {
  const Structure& s = *settings.recurrence.structure;
  if (s.normalizer == Normalizer::kNone) return;
  for (at::Tensor& state : in.states) state.select(3, state.size(3) - 1).abs_();
}

class Choices : public ::testing::TestWithParam<Choice> {};

TEST_P(Choices, EqualTheirDefinition) {
  for (const auto& [window, sinks] : {std::pair<int64_t, int64_t>{17, 4}, {6, 0}, {1, 2}, {33, 40}})
    for (const bool scalars : {false, true})
      for (const MixShape& shape :
           {MixShape{{80, 3, 12, 21}, 4, 2, 8}, MixShape{{70}, 2, 2, 10}, MixShape{{50}, 3, 1, 64}}) {
        SCOPED_TRACE(cat("window ", window, ", sinks ", sinks, ", numbers of heads ", scalars, ", D ", shape.D));
        const MixSettings settings = settings_of(GetParam(), window, sinks);
        at::manual_seed(6);
        for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
          MixInputs in = random_inputs(settings, shape, type);
          if (scalars) in.scalars = random_scalars(shape.H).to(type == at::kDouble ? at::kDouble : at::kFloat);
          make_possible(settings, in);
          expect_equal_to_definition(settings, in, type == at::kDouble ? 1e-10 : 2e-5);
        }
      }
}

TEST_P(Choices, SplittingChangesNothing) {
  at::NoGradGuard no_grad;
  for (const auto& [window, sinks] : {std::pair<int64_t, int64_t>{17, 4}, {6, 0}, {1, 2}, {65, 3}}) {
    SCOPED_TRACE(cat("window ", window, ", sinks ", sinks));
    const MixSettings settings = settings_of(GetParam(), window, sinks);
    at::manual_seed(5);
    MixInputs in = random_inputs(settings, {{90}, 4, 2, 8}, at::kFloat);
    in.states.clear();
    in.scalars = random_scalars(4);
    expect_splitting_changes_nothing(settings, in, 2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Choices, ::testing::ValuesIn(kChoices),
                         [](const auto& info) { return std::string(info.param.name); });

// Where queries and keys are zeros, a key counts 1 in the window and 2 D in the state. With a weight of 1 / (2 D) both
// together are softmax attention over the whole text: the mean of all values so far.
TEST(SharedNormalizer, IsOneSoftmaxOverWindowAndState) {
  const int64_t T = 60, D = 8;
  MixSettings settings = settings_of(kChoices[0], 7, 2);
  settings.recurrence.structure = with_choices(*find_structure("linear"), kExp, Normalizer::kShared);
  settings.rotates_features = false;
  at::manual_seed(3);
  MixInputs in = random_inputs(settings, {{T}, 1, 1, D}, at::kDouble);
  in.states.clear();
  in.q = at::zeros_like(in.q);
  in.k = at::zeros_like(in.k);
  in.scalars = at::zeros({kHeadScalars, 1}, at::kDouble);
  in.scalars[kQueryScale].fill_(1);
  in.scalars[kKeyScale].fill_(1);
  in.scalars[kLinearWeight].fill_(-std::log(2.0 * D));
  const at::Tensor means = in.v.cumsum(0) / at::arange(1, T + 1, at::kDouble).view({-1, 1, 1});
  expect_close(reference_mix(settings, in).o, means, 1e-12, "definition");
  expect_close(fused_mix(settings, in).o, means, 1e-12, "compiled");
}

TEST(SharedNormalizer, AnEmptyStateLeavesTheWindowAlone) {
  const MixSettings settings = settings_of(kChoices[0], 17, 4);
  MixSettings alone = settings;
  alone.recurrence.structure = nullptr;
  alone.beyond_window = false;
  at::manual_seed(4);
  MixInputs in = random_inputs(settings, {{21}, 2, 1, 8}, at::kFloat);
  in.states.clear();
  EXPECT_TRUE(fused_mix(settings, in).o.equal(fused_mix(alone, in).o));
}

TEST(Choices, WhatDoesNotGoTogetherIsRefused) {
  const auto refuses = [](const char* name, std::optional<FeatureMap> f, std::optional<Normalizer> n) {
    return !refuses_choices(*find_structure(name), f, n).empty();
  };
  EXPECT_TRUE(refuses("gsa", kExp, {}));
  EXPECT_TRUE(refuses("deltanet", {}, Normalizer::kOwn));
  EXPECT_TRUE(refuses("mlstm", {}, Normalizer::kShared));
  EXPECT_TRUE(refuses("gla", FeatureMap::kIdentity, Normalizer::kOwn));
  EXPECT_TRUE(refuses("rwkv6", {}, Normalizer::kOwn));
  EXPECT_FALSE(refuses("gla", kExp, Normalizer::kShared));
  EXPECT_FALSE(refuses("swa", {}, {}));
}

}  // namespace
}  // namespace liger
