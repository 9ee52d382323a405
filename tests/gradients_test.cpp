// The gradients that are written by hand, against differences of the operation itself in float64: no second formula
// that could share a mistake.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "liger/core/head_scalars.h"
#include "liger/error.h"
#include "liger/ops/linear.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/ops/linear_distillation.h"
#include "liger/recurrence/recurrence.h"
#include "nn/checkpointed.h"
#include "nn/fused_mix.h"

namespace liger {
namespace {

using Tensors = std::vector<at::Tensor>;
using Operation = std::function<Tensors(const Tensors&)>;

at::Tensor randn(const std::vector<int64_t>& shape) { return at::randn(shape, at::kDouble); }

// A fixed random projection of all outputs, so that each of their numbers counts.
at::Tensor projected(const Operation& operation, const Tensors& inputs) {
  at::Tensor sum;
  int64_t seed = 1;
  for (const at::Tensor& out : operation(inputs)) {
    at::manual_seed(static_cast<uint64_t>(seed++));
    const at::Tensor part = (out * at::randn(out.sizes(), out.options())).sum();
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

/// Every partial derivative by the central difference of fourth order, whose error is below 1e-9 at this step.
at::Tensor by_differences(const Operation& operation, const Tensors& inputs, size_t which) {
  constexpr double kStep = 1e-3;
  at::Tensor gradient = at::empty(inputs[which].sizes(), at::kDouble);
  for (int64_t i = 0; i < gradient.numel(); ++i) {
    const auto at_offset = [&](double offset) {
      Tensors moved = inputs;
      moved[which] = inputs[which].clone();
      moved[which].view(-1)[i] += offset;
      return projected(operation, moved).item<double>();
    };
    const double near = at_offset(kStep) - at_offset(-kStep), far = at_offset(2 * kStep) - at_offset(-2 * kStep);
    gradient.view(-1)[i] = (8 * near - far) / (12 * kStep);
  }
  return gradient;
}

void expect_gradients(const char* what, const Operation& operation, const Tensors& inputs) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.clone().requires_grad_(true));
  const Tensors gradients = torch::autograd::grad({projected(operation, leaves)}, leaves);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor expected = by_differences(operation, inputs, i);
    const double scale = expected.abs().max().item<double>();
    EXPECT_GT(scale, 1e-4) << what << ", input " << i << ": it does not matter";
    EXPECT_LT((gradients[i] - expected).abs().max().item<double>(), 1e-7 * std::max(1.0, scale))
        << what << ", input " << i;
  }
}

TEST(Gradients, OfProducts) {
  expect_gradients("linear", [](const Tensors& in) { return Tensors{linear(in[0], in[1], in[2])}; },
                   {randn({3, 7}), randn({5, 7}), randn({5})});
  expect_gradients("lora_linear",
                   [](const Tensors& in) { return Tensors{lora_linear(in[0], in[3], in[4], in[1], in[2], 0.7)}; },
                   {randn({3, 7}), randn({2, 7}), randn({5, 2}), randn({5, 7}), randn({5})});
}

TEST(Gradients, OfRows) {
  for (const bool adds_one : {false, true})
    expect_gradients("rms_norm", [&](const Tensors& in) { return Tensors{rms_norm(in[0], in[1], 1e-5, adds_one)}; },
                     {randn({3, 11}), randn({11})});
  for (const char* name : {"silu", "gelu", "gelu_pytorch_tanh"})
    expect_gradients(name, [&](const Tensors& in) { return Tensors{gated_activation(name, in[0], in[1])}; },
                     {randn({3, 11}), randn({3, 11})});
}

// With a frozen weight and with a trained one, which go different ways.
TEST(Gradients, OfTheLoss) {
  at::Tensor targets = at::randint(9, {6}, at::kLong);
  targets[2] = kIgnoredTarget;
  const at::Tensor weight = randn({9, 4});
  expect_gradients("frozen", [&](const Tensors& in) { return Tensors{linear_cross_entropy(in[0], weight, targets)}; },
                   {randn({6, 4})});
  expect_gradients("trained", [&](const Tensors& in) { return Tensors{linear_cross_entropy(in[0], in[1], targets)}; },
                   {randn({6, 4}), weight});
}

TEST(Gradients, OfDistillation) {
  at::Tensor targets = at::randint(9, {6}, at::kLong);
  targets[2] = kIgnoredTarget;
  const at::Tensor head = randn({9, 4}), taught = randn({6, 5}), teacher = randn({9, 5});
  for (const Distillation& how :
       {Distillation{}, Distillation{0.3, 2.0}, Distillation{0.0, 1.0}, Distillation{1, 1, Divergence::kReverse},
        Distillation{0.6, 1.5, Divergence::kReverse}, Distillation{1, 1, Divergence::kJensenShannon},
        Distillation{0.6, 1.5, Divergence::kJensenShannon}, Distillation{1, 2, Divergence::kTotalVariation}}) {
    const auto loss = [&](const at::Tensor& x, const at::Tensor& weight) {
      return Tensors{linear_distillation(x, weight, taught, teacher, targets, how)};
    };
    expect_gradients("frozen", [&](const Tensors& in) { return loss(in[0], head); }, {randn({6, 4})});
    expect_gradients("trained", [&](const Tensors& in) { return loss(in[0], in[1]); }, {randn({6, 4}), head});
  }
}

TEST(Gradients, OfScans) {
  for (const bool delta_rule : {false, true}) {
    const auto scan = [&](const Tensors& in) {
      ScanInputs inputs = {in[0], in[1], in[2], at::log_sigmoid(in[3]), {}, in[4]};
      if (delta_rule) inputs.b = at::sigmoid(in[5]);
      const ScanOutputs out = gated_scan(inputs, ScanMethod::kFused);
      return Tensors{out.o, out.state};
    };
    Tensors in = {randn({1, 5, 2, 3}), randn({1, 5, 1, 3}), randn({1, 5, 1, 3}), randn({1, 5, 1, 3}),
                  randn({1, 1, 3, 3})};
    if (delta_rule) in.push_back(randn({1, 5, 1}));
    expect_gradients(delta_rule ? "delta rule" : "diagonal decay", scan, in);
  }
}

// Two packed sequences, grouped heads, states from before, window and sinks that both hide keys.
TEST(Gradients, OfEveryStructure) {
  const std::vector<int64_t> lengths = {5, 2};
  const Rotation angles = rotation(rope_frequencies({}, 4, at::kCPU), at::cat({at::arange(5), at::arange(2)}));
  for (const Structure& structure : structures()) {
    MixSettings settings = {.recurrence = {.structure = &structure, .gate_divisor = 2, .layer = 1, .layers = 4},
                            .window = 2,
                            .sinks = 1,
                            .window_share = 0.4};
    Tensors in = {randn({7, 2, 4}), randn({7, 1, 4}), randn({7, 1, 4})};
    if (structure.window_only) {
      settings.recurrence.structure = nullptr;
    } else {
      for (const StateShape& shape : state_shapes(structure, 4)) in.push_back(randn({2, 1, shape.rows, shape.columns}));
    }
    const auto mix = [&](const Tensors& x) {
      const MixOutputs out = fused_mix(settings, {x[0], x[1], x[2], angles, lengths, Tensors(x.begin() + 3, x.end())});
      Tensors all = {out.o};
      all.insert(all.end(), out.states.begin(), out.states.end());
      return all;
    };
    expect_gradients(structure.name, mix, in);
  }
}

// One softmax over window and state, with numbers for each head.
TEST(Gradients, OfNumbersOfHeads) {
  const std::vector<int64_t> lengths = {7, 2};
  const Rotation angles = rotation(rope_frequencies({}, 4, at::kCPU), at::cat({at::arange(7), at::arange(2)}));
  for (const Normalizer normalizer : {Normalizer::kShared, Normalizer::kOwn}) {
    MixSettings settings = {.recurrence = {.gate_divisor = 2}, .window = 2, .sinks = 1};
    settings.recurrence.structure = with_choices(*find_structure("gla"), FeatureMap::kExpPair, normalizer);
    settings.rotates_features = settings.beyond_window = true;
    const auto mix = [&](const Tensors& x) {
      return Tensors{fused_mix(settings, {x[0], x[1], x[2], angles, lengths, {}, {}, x[3]}).o};
    };
    expect_gradients("numbers of heads", mix,
                     {randn({9, 4, 4}), randn({9, 2, 4}), randn({9, 2, 4}), 0.5 + 0.3 * randn({kHeadScalars, 4})});
  }
}

TEST(Gradients, OfWhatIsRunAgain) {
  expect_gradients("checkpointed",
                   [](const Tensors& in) {
                     const auto run = [&](const at::Tensor& x) {
                       return rms_norm(liger::linear(x, in[1]), in[2], 1e-5, false);
                     };
                     return Tensors{checkpointed(run, in[0], {in[1], in[2]})};
                   },
                   {randn({3, 7}), randn({5, 7}), randn({5})});
}

}  // namespace
}  // namespace liger
