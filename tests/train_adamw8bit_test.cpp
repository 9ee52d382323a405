// 8-bit moments: the numbers a byte stands for, blocks, and the optimizer that keeps them.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "liger/error.h"
#include "liger/train/optimizer.h"
#include "train/block_quantized.h"

namespace liger {
namespace {

std::vector<float> values(const at::Tensor& x) {
  const at::Tensor flat = x.detach().to(at::kFloat).contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

TEST(DynamicMap, HasTheValuesOfThePaper) {
  for (const bool is_signed : {true, false}) {
    const auto map = values(dynamic_quantization_map(is_signed));
    ASSERT_EQ(map.size(), 256u);
    EXPECT_TRUE(std::is_sorted(map.begin(), map.end()));
    EXPECT_EQ(std::adjacent_find(map.begin(), map.end()), map.end());
    EXPECT_EQ(map.back(), 1.0f);
    EXPECT_EQ(map[is_signed ? 127 : 0], 0.0f);
    for (size_t i = 0; is_signed && i < 127; ++i) EXPECT_EQ(map[i], -map[254 - i]);
  }
  // 64 parts of 0.1 to 1, their ends and middles: 0.1 + 0.9 * (i + 0.5) / 64.
  EXPECT_FLOAT_EQ(values(dynamic_quantization_map(true))[254], 0.99296875f);
  EXPECT_FLOAT_EQ(values(dynamic_quantization_map(true))[191], 0.10703125f);
  EXPECT_FLOAT_EQ(values(dynamic_quantization_map(true))[128], 0.55e-6f);  // one part: its middle
  EXPECT_FLOAT_EQ(values(dynamic_quantization_map(false))[1], 0.325e-6f);  // two parts
  EXPECT_FLOAT_EQ(values(dynamic_quantization_map(false))[254], 0.996484375f);
}

/// The nearest of the map, by looking at all of them.
float nearest(const std::vector<float>& map, float x) {
  return *std::min_element(map.begin(), map.end(), [&](float a, float b) { return std::abs(a - x) < std::abs(b - x); });
}

TEST(BlockQuantized, KeepsTheNearestOfEachBlock) {
  at::manual_seed(1);
  for (const bool is_signed : {true, false}) {
    at::Tensor x = at::randn({700});
    x.narrow(0, 256, 256).mul_(1e-6);  // blocks do not disturb each other
    x.narrow(0, 600, 3).zero_();
    if (!is_signed) x = x.square();
    BlockQuantized stored(x, is_signed);
    EXPECT_TRUE(stored.read(0, 700).equal(at::zeros({700})));
    stored.write(0, x);
    const auto map = values(dynamic_quantization_map(is_signed));
    const auto got = values(stored.read(0, 700)), wanted = values(x);
    for (size_t i = 0; i < 700; ++i) {
      const size_t block = i / 256 * 256, end = std::min<size_t>(block + 256, 700);
      float largest = 0;
      for (size_t j = block; j < end; ++j) largest = std::max(largest, std::abs(wanted[j]));
      EXPECT_NEAR(got[i] / largest, nearest(map, wanted[i] / largest), 1e-7) << i;
      EXPECT_LE(std::abs(got[i] - wanted[i]), 0.0071f * largest) << i;  // half of a part of the last decade
      EXPECT_TRUE(wanted[i] < largest || got[i] == wanted[i]) << "a largest number is exact; the map has no -1";
    }
    EXPECT_TRUE(stored.read(512, 188).equal(stored.read(0, 700).narrow(0, 512, 188)));
    stored.write(256, x.narrow(0, 256, 444));
    EXPECT_EQ(values(stored.read(0, 700)), got);
    EXPECT_EQ(stored.codes().scalar_type(), at::kByte);
    EXPECT_EQ(stored.largest().sizes(), at::IntArrayRef{3});
  }
}

constexpr AdamWOptions kWide = {.weight_decay = 0.1};
constexpr AdamWOptions kBytes = {.weight_decay = 0.1, .eight_bit = true};

// One of bytes (65 x 64 is no multiple of 256), one too small for them.
std::vector<NamedParameter> make_parameters() {
  at::manual_seed(3);
  return {{"large", at::randn({65, 64}).set_requires_grad(true)},
          {"small", at::randn({63, 65}).set_requires_grad(true)}};
}

void set_grads(const std::vector<NamedParameter>& parameters, int64_t step) {
  at::manual_seed(100 + static_cast<uint64_t>(step));
  for (const auto& p : parameters) p.value.mutable_grad() = at::randn(p.value.sizes()) * 0.01;
}

/// What a saved moment stands for, in float64.
at::Tensor decoded(const std::map<std::string, at::Tensor>& state, const std::string& moment, bool is_signed) {
  const at::Tensor codes = state.at(moment + ".large").flatten();
  const at::Tensor numbers = dynamic_quantization_map(is_signed).index_select(0, codes.to(at::kInt));
  const at::Tensor largest = state.at(moment + ".largest.large").repeat_interleave(256).narrow(0, 0, codes.numel());
  return numbers.to(at::kDouble) * largest.to(at::kDouble);
}

TEST(AdamW8bit, UpdatesByTheDefinition) {
  const auto parameters = make_parameters(), reference = make_parameters();
  AdamW optimizer(parameters, kBytes), wide(reference, kWide);
  for (int64_t step = 0; step < 6; ++step) {
    set_grads(parameters, step);
    set_grads(reference, step);
    const at::Tensor p = parameters[0].value.detach().to(at::kDouble).flatten();
    const at::Tensor g = parameters[0].value.grad().to(at::kDouble).flatten();
    const at::Tensor m = 0.9 * decoded(optimizer.state(), "exp_avg", true) + 0.1 * g;
    const at::Tensor v = 0.999 * decoded(optimizer.state(), "exp_avg_sq", false) + 0.001 * g * g;
    const double t = static_cast<double>(step + 1);
    const at::Tensor update = m / (1 - std::pow(0.9, t)) / ((v / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
    optimizer.step(0.01);
    wide.step(0.01);
    const at::Tensor expected = p * (1 - 0.01 * 0.1) - 0.01 * update, got = parameters[0].value.detach().flatten();
    EXPECT_LE((got - expected).abs().max().item<double>(), 1e-6) << step;
    EXPECT_LE((decoded(optimizer.state(), "exp_avg", true) - m).abs().max().item<double>(),
              0.0071 * m.abs().max().item<double>());
    EXPECT_LE((decoded(optimizer.state(), "exp_avg_sq", false) - v).abs().max().item<double>(),
              0.0036 * v.max().item<double>());
    EXPECT_TRUE(parameters[1].value.equal(reference[1].value)) << "the small one keeps its wide moments";
  }
  EXPECT_FALSE(parameters[0].value.equal(reference[0].value));
}

TEST(AdamW8bit, LearnsAsWell) {
  for (const bool eight_bit : {false, true}) {
    at::manual_seed(8);
    const at::Tensor x = at::randn({256, 64}), target = x.matmul(at::randn({64, 64}));
    const std::vector<NamedParameter> weight = {{"w", at::zeros({64, 64}).set_requires_grad(true)}};
    AdamW optimizer(weight, {.weight_decay = 0, .eight_bit = eight_bit});
    double loss = 0;
    for (int step = 0; step < 300; ++step) {
      optimizer.zero_grad();
      const at::Tensor error = (x.matmul(weight[0].value) - target).square().mean();
      error.backward();
      optimizer.step(0.02);
      loss = error.item<double>();
    }
    EXPECT_LT(loss, 0.01 * target.square().mean().item<double>()) << (eight_bit ? "8 bits" : "32 bits");
  }
}

TEST(AdamW8bit, GoesOnFromASavedState) {
  const auto straight = make_parameters(), stopped = make_parameters();
  AdamW optimizer(straight, kBytes), before(stopped, kBytes), after(stopped, kBytes);
  for (int64_t step = 0; step < 5; ++step) {
    set_grads(straight, step);
    optimizer.step(0.1);
    set_grads(stopped, step);
    if (step == 3) after.restore(before.state(), 3);
    (step < 3 ? before : after).step(0.1);
  }
  for (size_t i = 0; i < straight.size(); ++i) EXPECT_TRUE(straight[i].value.equal(stopped[i].value)) << i;
  for (const auto& [name, moment] : optimizer.state()) EXPECT_TRUE(after.state().at(name).equal(moment)) << name;
}

TEST(AdamW8bit, SavesBytesAndRefusesWideMoments) {
  AdamW optimizer(make_parameters(), kBytes), wide(make_parameters(), kWide);
  const auto state = optimizer.state();
  EXPECT_EQ(state.size(), 6u);
  EXPECT_EQ(state.at("exp_avg.large").scalar_type(), at::kByte);
  EXPECT_EQ(state.at("exp_avg.large").sizes(), (at::IntArrayRef{65, 64}));
  EXPECT_EQ(state.at("exp_avg_sq.largest.large").sizes(), at::IntArrayRef{17});
  EXPECT_EQ(state.at("exp_avg.small").scalar_type(), at::kFloat);
  EXPECT_THROW(optimizer.restore(wide.state(), 1), Error);
  EXPECT_THROW(wide.restore(state, 1), Error);
}

}  // namespace
}  // namespace liger
