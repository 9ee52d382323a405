#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "liger/error.h"
#include "liger/train/optimizer.h"
#include "liger/train/schedule.h"

namespace liger {
namespace {

constexpr AdamWOptions kOptions = {.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};

std::vector<NamedParameter> make_parameters() {
  at::manual_seed(3);
  return {{"matrix", at::randn({5, 7}, at::kDouble).set_requires_grad(true)},
          {"norm", at::randn({33}, at::kDouble).set_requires_grad(true)},
          {"other", at::randn({2, 3}, at::kDouble).set_requires_grad(true)}};
}

void set_grads(const std::vector<NamedParameter>& parameters, int64_t step) {
  at::manual_seed(100 + static_cast<uint64_t>(step));
  for (const auto& [name, value, ratio, decays] : parameters)
    value.mutable_grad() = at::randn(value.sizes(), at::kDouble);
}

// The formula of the header, element by element.
class PlainAdamW {
 public:
  void step(std::vector<double>& p, const at::Tensor& grad, double lr, double weight_decay) {
    ++t_;
    m_.resize(p.size());
    v_.resize(p.size());
    const double* g = grad.const_data_ptr<double>();
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] *= 1 - lr * weight_decay;
      m_[i] = kOptions.beta1 * m_[i] + (1 - kOptions.beta1) * g[i];
      v_[i] = kOptions.beta2 * v_[i] + (1 - kOptions.beta2) * g[i] * g[i];
      const double m = m_[i] / (1 - std::pow(kOptions.beta1, t_)), v = v_[i] / (1 - std::pow(kOptions.beta2, t_));
      p[i] -= lr * m / (std::sqrt(v) + kOptions.eps);
    }
  }

 private:
  std::vector<double> m_, v_;
  int t_ = 0;
};

std::vector<double> values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

TEST(AdamW, FollowsTheDefinition) {
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, kOptions);
  std::vector<std::vector<double>> expected;
  for (const auto& [name, value, ratio, decays] : parameters) expected.push_back(values(value));
  std::vector<PlainAdamW> plain(parameters.size());
  for (int64_t step = 0; step < 5; ++step) {
    const double lr = 0.01 * static_cast<double>(step + 1);
    set_grads(parameters, step);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const double decay = parameters[i].value.dim() >= 2 ? kOptions.weight_decay : 0;
      plain[i].step(expected[i], parameters[i].value.grad(), lr, decay);
    }
    optimizer.step(lr);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto actual = values(parameters[i].value);
      for (size_t j = 0; j < actual.size(); ++j) EXPECT_NEAR(actual[j], expected[i][j], 1e-12);
    }
  }
}

// LoRA+: some parameters learn faster, and decay faster with it.
TEST(AdamW, LearningRatesByParameter) {
  const auto slow = make_parameters();
  auto mixed = make_parameters();
  mixed[2].lr_ratio = 16;
  const auto fast = make_parameters();
  AdamW a(slow, kOptions), b(mixed, kOptions), c(fast, kOptions);
  for (int64_t step = 0; step < 3; ++step) {
    for (const auto& parameters : {slow, mixed, fast}) set_grads(parameters, step);
    a.step(0.01);
    b.step(0.01);
    c.step(0.16);
  }
  for (const size_t i : {0, 1}) EXPECT_TRUE(mixed[i].value.equal(slow[i].value)) << i;
  EXPECT_TRUE(mixed[2].value.equal(fast[2].value));
  EXPECT_FALSE(mixed[2].value.equal(slow[2].value));
}

TEST(AdamW, GoesOnFromASavedState) {
  const auto straight = make_parameters(), stopped = make_parameters();
  AdamW optimizer(straight, kOptions), before(stopped, kOptions), after(stopped, kOptions);
  for (int64_t step = 0; step < 4; ++step) {
    set_grads(straight, step);
    optimizer.step(0.1);
    set_grads(stopped, step);
    if (step == 2) after.restore(before.state(), 2);
    (step < 2 ? before : after).step(0.1);
  }
  for (size_t i = 0; i < straight.size(); ++i) EXPECT_TRUE(straight[i].value.equal(stopped[i].value));
  EXPECT_EQ(after.steps(), 4);
}

TEST(AdamW, RefusesAForeignState) {
  AdamW optimizer(make_parameters(), kOptions);
  auto state = optimizer.state();
  EXPECT_EQ(state.size(), 6u);
  state["exp_avg.norm"] = at::randn({34}, at::kDouble);
  EXPECT_THROW(optimizer.restore(state, 1), Error);
  state.erase("exp_avg.norm");
  EXPECT_THROW(optimizer.restore(state, 1), Error);
}

TEST(AdamW, NormScaleAndBadGradients) {
  const auto parameters = make_parameters();
  AdamW optimizer(parameters, kOptions);
  set_grads(parameters, 0);
  double squares = 0;
  for (const auto& [name, value, ratio, decays] : parameters) squares += value.grad().pow(2).sum().item<double>();
  EXPECT_NEAR(optimizer.grad_norm(), std::sqrt(squares), 1e-12);
  optimizer.scale_grads(0.5);
  EXPECT_NEAR(optimizer.grad_norm(), std::sqrt(squares) / 2, 1e-12);
  EXPECT_EQ(optimizer.first_nonfinite_grad(), "");
  parameters[1].value.mutable_grad()[4] = INFINITY;
  EXPECT_EQ(optimizer.first_nonfinite_grad(), "norm");
  EXPECT_FALSE(std::isfinite(optimizer.grad_norm()));
  optimizer.zero_grad();
  EXPECT_THROW(optimizer.grad_norm(), Error);
}

TrainOptions schedule_options(SchedulerKind kind) {
  TrainOptions options;
  options.scheduler = kind;
  options.lr = 1.0;
  options.min_lr = 0.1;
  options.warmup_steps = 4;
  return options;
}

// The numbers of torch.optim.lr_scheduler (torch 2.13): SequentialLR of LinearLR(start_factor=1/4, total_iters=3) and,
// from update 4 on, ConstantLR(factor=1), CosineAnnealingLR(T_max=10, eta_min=0.1) or LinearLR(1, 0.1, total_iters=10).
TEST(Schedule, WarmsUpAndFallsAsTorchs) {
  const std::vector<std::pair<SchedulerKind, std::vector<double>>> cases = {
      {SchedulerKind::kConstant, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
      {SchedulerKind::kCosine,
       {1.0, 0.977975432333, 0.914057647469, 0.814503363532, 0.689057647469, 0.55, 0.410942352531, 0.285496636468,
        0.185942352531, 0.122024567667, 0.1}},
      {SchedulerKind::kLinear, {1.0, 0.91, 0.82, 0.73, 0.64, 0.55, 0.46, 0.37, 0.28, 0.19, 0.1}},
  };
  for (const auto& [kind, rates] : cases) {
    const Schedule schedule(schedule_options(kind), 14);
    for (int64_t step = 0; step < 4; ++step) EXPECT_DOUBLE_EQ(schedule.lr(step), 0.25 * static_cast<double>(step + 1));
    for (size_t i = 0; i < rates.size(); ++i)
      EXPECT_NEAR(schedule.lr(static_cast<int64_t>(i) + 4), rates[i], 1e-12) << i;
  }
  TrainOptions options = schedule_options(SchedulerKind::kCosine);
  options.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(Schedule(options, 14).lr(0), 1.0);
}

// The numbers torch.optim.lr_scheduler.ReduceLROnPlateau(factor=0.1, patience=2, min_lr=0.005) gives.
TEST(Schedule, PlateauIsTheReferences) {
  TrainOptions options = schedule_options(SchedulerKind::kPlateau);
  options.warmup_steps = 0;
  options.plateau_patience = 2;
  options.min_lr = 0.005;
  Schedule schedule(options, 100);
  const double losses[] = {2.0, 1.0, 0.99995, 1.5, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9};
  const double rates[] = {1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.005};
  for (int i = 0; i < 12; ++i) {
    schedule.validated(losses[i]);
    EXPECT_NEAR(schedule.lr(i), rates[i], 1e-12) << i;
    Schedule restored(options, 100);  // what is saved is all there is
    restored.restore(schedule.state());
    EXPECT_EQ(restored.lr(i), schedule.lr(i));
    schedule = restored;
  }
}

}  // namespace
}  // namespace liger
