// A layer's mix by the CUDA kernels, as LibTorch calls them, against its definition: outputs, states and gradients. The
// kernels are those compiled for the host.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>

#include "kernel_testing.h"
#include "liger/core/head_scalars.h"
#include "liger/error.h"
#include "nn/cuda_mix.h"
#include "nn/reference_mix.h"

namespace liger {
namespace {

using Tensors = std::vector<at::Tensor>;

struct Shape {
  std::vector<int64_t> lengths;
  int64_t H, Hkv, D;
};

MixInputs random_inputs(const MixSettings& settings, const Shape& s, at::ScalarType type) {
  const int64_t S = std::ssize(s.lengths), N = std::accumulate(s.lengths.begin(), s.lengths.end(), int64_t{0});
  const auto randn = [&](std::vector<int64_t> shape) { return at::randn(shape).to(type); };
  MixInputs in = {randn({N, s.H, s.D}), randn({N, s.Hkv, s.D}), randn({N, s.Hkv, s.D}), {}, s.lengths, {}};
  std::vector<at::Tensor> positions;
  for (const int64_t length : s.lengths) positions.push_back(at::arange(length, at::kLong));
  in.rotation = rotation(rope_frequencies({}, s.D, at::kCPU), at::cat(positions));
  if (settings.recurrence.structure)
    for (const StateShape& shape : state_shapes(*settings.recurrence.structure, s.D))
      in.states.push_back(at::randn({S, s.Hkv, shape.rows, shape.columns}) * 0.3);
  return in;
}

// Leaves in float64, or as they are where the kernels reach them.
MixInputs as_leaves(const MixInputs& in, bool exact) {
  MixInputs out = in;
  const auto leaf = [&](const at::Tensor& x) {
    return (exact ? x.to(at::kDouble) : x.to(kKernelDevice)).detach().clone().requires_grad_(true);
  };
  if (!exact) out.rotation = {in.rotation.cos.to(kKernelDevice), in.rotation.sin.to(kKernelDevice)};
  for (at::Tensor* x : {&out.q, &out.k, &out.v}) *x = leaf(*x);
  for (at::Tensor& state : out.states) state = leaf(state);
  if (out.scalars.defined()) out.scalars = leaf(out.scalars);
  return out;
}

// The output, the last states, and the gradients of a fixed random projection of both.
Tensors results(const MixInputs& in, const MixOutputs& out) {
  at::manual_seed(99);
  const at::Tensor weights = at::randn(out.o.sizes()).to(at::kBFloat16);
  const auto product = [](const at::Tensor& x, const at::Tensor& y) {
    return (x.to(at::kDouble) * y.to(x.device(), at::kDouble)).sum();
  };
  at::Tensor loss = product(out.o, weights);
  for (const at::Tensor& state : out.states) loss = loss + product(state, at::randn(state.sizes()));
  Tensors leaves = {in.q, in.k, in.v}, all = {out.o};
  leaves.insert(leaves.end(), in.states.begin(), in.states.end());
  if (in.scalars.defined()) leaves.push_back(in.scalars);
  all.insert(all.end(), out.states.begin(), out.states.end());
  for (const at::Tensor& gradient : torch::autograd::grad({loss}, leaves, {}, {}, false, /*allow_unused=*/true))
    all.push_back(gradient.defined() ? gradient : at::zeros({1}));
  for (at::Tensor& x : all) x = x.cpu();
  return all;
}

void expect_equal_to_definition(const MixSettings& settings, const Shape& shape, at::ScalarType type,
                                bool scalars = false) {
  at::manual_seed(7);
  MixInputs in = random_inputs(settings, shape, type);
  if (scalars) {
    in.scalars = at::randn({kHeadScalars, shape.H}) * 0.3;
    for (const HeadScalar row : {kWindowWeight, kLinearWeight, kQueryScale, kKeyScale}) in.scalars[row] += 0.7;
  }
  if (settings.recurrence.structure && settings.recurrence.structure->normalizer > Normalizer::kAtLeastOne)
    in.states[0].select(3, shape.D).abs_();  // sums of features that are not negative
  ASSERT_EQ(cuda_mix_refuses(settings, in), "");
  const MixInputs exact = as_leaves(in, true), leaves = as_leaves(in, false);
  const Tensors expected = results(exact, reference_mix(settings, exact));
  const Tensors got = results(leaves, cuda_mix(settings, leaves));
  const size_t states = in.states.size();
  ASSERT_EQ(got.size(), expected.size());
  const double tolerance = type == at::kFloat ? 2e-5 : 1e-2;
  for (size_t i = 0; i < got.size(); ++i) {
    const std::string what = i == 0           ? "o"
                             : i <= states    ? "state"
                             : i < states + 4 ? cat("d", "qkv"[i - states - 1])
                                              : "dstate";
    testing::expect_close(got[i], expected[i], i > states ? 2 * tolerance : tolerance, what.c_str());
  }
}

class EveryStructure : public ::testing::TestWithParam<std::tuple<at::ScalarType, const char*>> {};

TEST_P(EveryStructure, EqualsTheDefinition) {
  const auto& [type, name] = GetParam();
  const Structure* structure = find_structure(name);
  MixSettings settings = {
      .recurrence = {.structure = structure->window_only ? nullptr : structure, .layer = 1, .layers = 4},
      .window = 9,
      .sinks = 2,
      .window_share = 0.4};
  if (structure->window_only) settings.window_share = 1;
  expect_equal_to_definition(settings, {{37, 1, 20}, 4, 2, 64}, type);
}

std::vector<const char*> names() {
  std::vector<const char*> out;
  for (const Structure& structure : structures()) out.push_back(structure.name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(Structures, EveryStructure,
                         ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16),
                                            ::testing::ValuesIn(names())));

// Layers that chose what the paper's do not have: LibTorch's operators around the kernels' scan and window.
struct Choice {
  const char* structure;
  std::optional<FeatureMap> features;
  std::optional<Normalizer> normalizer;
  bool rotates, beyond_window;
};
constexpr Choice kChoices[] = {{"gated-retention", FeatureMap::kExpPair, Normalizer::kShared, true, true},
                               {"gla", FeatureMap::kSoftmaxPair, Normalizer::kOwn, false, true},
                               {"mamba2", {}, {}, true, false},
                               {"mlstm", {}, {}, false, true}};
TEST(CudaMix, RunsChoicesByParts) {
  for (const Choice& choice : kChoices)
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const int64_t window : {9, 40}) {
        SCOPED_TRACE(cat(choice.structure, ", window ", window));
        MixSettings settings = {.recurrence = {.layer = 1, .layers = 4}, .window = window, .sinks = 2};
        settings.recurrence.structure =
            with_choices(*find_structure(choice.structure), choice.features, choice.normalizer);
        settings.rotates_features = choice.rotates;
        settings.beyond_window = choice.beyond_window;
        expect_equal_to_definition(settings, {{37, 1, 20}, 4, 2, 64}, type, /*scalars=*/true);
        expect_equal_to_definition(settings, {{24, 24}, 2, 1, 64}, type, /*scalars=*/true);
      }
  MixSettings delta = {.recurrence = {.structure = find_structure("kda")}, .window = 9, .beyond_window = true};
  const MixInputs in = random_inputs(delta, {{20}, 2, 1, 64}, at::kFloat);
  EXPECT_NE(cuda_mix_refuses(delta, in).find("as in the paper only"), std::string::npos);
}

// Few sequences on the host's small device, so that their parts run side by side; no window; other sizes.
TEST(CudaMix, RunsPartsSideBySide) {
  for (const char* name : {"gla", "gsa", "mlstm"})
    for (const auto type : {at::kFloat, at::kHalf}) {
      SCOPED_TRACE(name);
      MixSettings settings = {.recurrence = {.structure = find_structure(name)}, .window = 0, .window_share = 0};
      expect_equal_to_definition(settings, {{270}, 2, 1, 64}, type);
    }
}
TEST(CudaMix, RunsHeadsOf128) {
  MixSettings settings = {.recurrence = {.structure = find_structure("gla")}, .window = 16, .sinks = 0};
  expect_equal_to_definition(settings, {{33, 33}, 4, 1, 128}, at::kBFloat16);
}

MixInputs part(const MixInputs& in, int64_t begin, int64_t length) {
  const auto cut = [&](const at::Tensor& x) {
    return x.view({2, -1, x.size(1), x.size(2)}).narrow(1, begin, length).reshape({2 * length, x.size(1), x.size(2)});
  };
  const auto angles = [&](const at::Tensor& x) {
    return x.view({2, -1, x.size(1)}).narrow(1, begin, length).reshape({2 * length, x.size(1)});
  };
  return {cut(in.q),        cut(in.k), cut(in.v), {angles(in.rotation.cos), angles(in.rotation.sin)},
          {length, length}, {},        {}};
}

// A text in pieces, some of them a single token, gives what the whole text gives.
TEST(CudaMix, ContinuesWhatItHasRead) {
  const at::NoGradGuard no_grad;
  for (const Structure& structure : structures()) {
    SCOPED_TRACE(structure.name);
    const MixSettings settings = {.recurrence = {.structure = structure.window_only ? nullptr : &structure},
                                  .window = 8,
                                  .sinks = 2,
                                  .window_share = structure.window_only ? 1 : 0.5};
    at::manual_seed(3);
    const MixInputs in = random_inputs(settings, {{40, 40}, 4, 2, 64}, at::kFloat);
    MixInputs exact = in;
    for (at::Tensor* x : {&exact.q, &exact.k, &exact.v}) *x = x->to(at::kDouble);
    exact.states.clear();
    const at::Tensor whole = reference_mix(settings, exact).o.view({2, 40, 4, 64});
    LayerState state;
    int64_t seen = 0;
    for (const int64_t length : {17, 1, 1, 12, 1, 8}) {
      const MixInputs now = as_leaves(part(in, seen, length), false);
      const at::Tensor past = at::full({2}, seen).to(kKernelDevice);
      const at::Tensor o = cuda_mix(settings, now, {seen, seen}, past, state).cpu();
      testing::expect_close(o.view({2, length, 4, 64}), whole.narrow(1, seen, length), 2e-5, "o");
      seen += length;
    }
  }
}

// The same of layers with choices: two texts at different places, in pieces, and token by token, by a kernel of its
// own.
void expect_continues(const Choice& choice, int64_t H, int64_t Hkv, int64_t D, at::ScalarType type, int64_t window,
                      bool scalars, const std::vector<int64_t>& pieces) {
  SCOPED_TRACE(cat(choice.structure, ", heads ", H, " of ", D, ", window ", window, ", ", type));
  MixSettings settings = {.recurrence = {.layer = 1, .layers = 4}, .window = window, .sinks = window > 0 ? 2 : 0};
  settings.window_share = window > 0 ? 0.3 : 0;
  settings.recurrence.structure = with_choices(*find_structure(choice.structure), choice.features, choice.normalizer);
  settings.rotates_features = choice.rotates;
  settings.beyond_window = choice.beyond_window && window > 0;
  at::manual_seed(3);
  constexpr int64_t kLength = 22, kAhead = 7;  // the second sequence has read so many tokens more
  MixInputs in = random_inputs(settings, {{kLength, kLength + kAhead}, H, Hkv, D}, type);
  in.states.clear();
  if (scalars) {
    in.scalars = at::randn({kHeadScalars, H}) * 0.3;
    for (const HeadScalar row : {kWindowWeight, kLinearWeight, kQueryScale, kKeyScale}) in.scalars[row] += 0.7;
  }
  MixInputs exact = in;
  for (at::Tensor* x : {&exact.q, &exact.k, &exact.v}) *x = x->to(at::kDouble);
  if (scalars) exact.scalars = in.scalars.to(at::kDouble);
  const at::Tensor whole = reference_mix(settings, exact).o;
  LayerState state;
  std::vector<int64_t> seen = {0, 0};
  const auto next = [&](int64_t first, int64_t second) {
    const auto cut = [&](const at::Tensor& x) {
      return at::cat({x.narrow(0, seen[0], first), x.narrow(0, kLength + seen[1], second)});
    };
    MixInputs now = {cut(in.q),       cut(in.k), cut(in.v), {cut(in.rotation.cos), cut(in.rotation.sin)},
                     {first, second}, {}};
    now.scalars = in.scalars;
    now = as_leaves(now, false);
    ASSERT_EQ(cuda_mix_refuses(settings, now, /*continues=*/true), "");
    const at::Tensor past = at::tensor(seen).to(kKernelDevice);
    testing::expect_close(cuda_mix(settings, now, seen, past, state).cpu(), cut(whole),
                          type == at::kFloat ? 3e-5 : 1e-2, cat("o at ", seen[0]).c_str());
    seen[0] += first;
    seen[1] += second;
  };
  next(pieces.front(), pieces.front() + kAhead);
  for (size_t i = 1; i < pieces.size(); ++i) next(pieces[i], pieces[i]);
  while (seen[0] < kLength) next(1, 1);
}
TEST(CudaMix, ContinuesChoices) {
  const at::NoGradGuard no_grad;
  constexpr auto kF = at::kFloat;
  for (const Choice& choice : kChoices)
    for (const int64_t window : {1, 8, 9}) {
      expect_continues(choice, 4, 2, 64, kF, window, window == 9, {6});
      expect_continues(choice, 4, 2, 64, kF, window, window == 8, {1, 3, 1, 11});
    }
  expect_continues(kChoices[0], 7, 1, 64, at::kBFloat16, 5, true, {6});
  expect_continues(kChoices[0], 2, 2, 128, at::kHalf, 5, true, {6});
  expect_continues({"gla", FeatureMap::kSoftmaxPair, Normalizer::kOwn, true, false}, 2, 1, 64, kF, 0, false, {6});
  for (const char* constant : {"retnet", "linear"})
    expect_continues({constant, FeatureMap::kExpPair, Normalizer::kShared, true, true}, 2, 2, 64, kF, 6, true, {6});
}
// Two features of 256 channels have no scan of whole texts here, and yet a step.
TEST(CudaMix, StepsWhereItHasNoScan) {
  const at::NoGradGuard no_grad;
  MixSettings settings = {.recurrence = {.structure = with_choices(*find_structure("gated-retention"),
                                                                   FeatureMap::kExpPair, Normalizer::kShared)},
                          .window = 5,
                          .sinks = 1,
                          .rotates_features = true,
                          .beyond_window = true};
  const MixInputs in = random_inputs(settings, {{9, 9}, 3, 1, 256}, at::kFloat);
  EXPECT_NE(cuda_mix_refuses(settings, in, true).find("states of up to 256 x 256"), std::string::npos);
  MixInputs exact = in;
  exact.states.clear();
  for (at::Tensor* x : {&exact.q, &exact.k, &exact.v}) *x = x->to(at::kDouble);
  const at::Tensor whole = reference_mix(settings, exact).o.view({2, 9, 3, 256});
  LayerState state;
  for (int64_t seen = 0; seen < 9; ++seen) {
    const MixInputs now = as_leaves(part(in, seen, 1), false);
    ASSERT_EQ(cuda_mix_refuses(settings, now, true), "");
    const at::Tensor past = at::full({2}, seen).to(kKernelDevice);
    const at::Tensor o = cuda_mix(settings, now, {seen, seen}, past, state).cpu();
    testing::expect_close(o.view({2, 1, 3, 256}), whole.narrow(1, seen, 1), 2e-5, "o");
  }
}

TEST(CudaMix, SaysWhatItCannotRun) {
  const auto refuses = [](int64_t D, at::ScalarType type) {
    const MixSettings settings = {.recurrence = {.structure = find_structure("gla")}};
    MixInputs in = {at::randn({4, 2, D}).to(type), at::randn({4, 2, D}).to(type), {}, {}, {4}, {}};
    return cuda_mix_refuses(settings, in);
  };
  EXPECT_EQ(refuses(48, at::kFloat), "the size of a key must be 64, 128 or 256");
  EXPECT_NE(refuses(64, at::kDouble).find("the kernels read float32, bfloat16 and float16"), std::string::npos);
  EXPECT_EQ(refuses(64, at::kHalf), "");
}

TEST(CudaMix, SaysWhatDoesNotFitTogether) {
  const MixSettings settings = {.recurrence = {.structure = find_structure("gla")}, .window = 8};
  const MixInputs right = as_leaves(random_inputs(settings, {{5, 4}, 4, 2, 64}, at::kFloat), false);
  MixInputs in = right;
  in.lengths = {5, 5};
  EXPECT_THROW(cuda_mix(settings, in), Error);
  in = right;
  in.v = in.v.to(at::kHalf);
  EXPECT_THROW(cuda_mix(settings, in), Error);
  in = right;
  in.states = {in.states[0].narrow(0, 0, 1)};
  EXPECT_THROW(cuda_mix(settings, in), Error);
  in = right;
  in.rotation.cos = in.rotation.cos.narrow(0, 0, 3);
  EXPECT_THROW(cuda_mix(settings, in), Error);
}

// A window whose scores do not fit into the decoding step's shared memory goes the way of longer texts.
TEST(CudaMix, DecodesWithAnyWindow) {
  const at::NoGradGuard no_grad;
  const MixSettings settings = {.recurrence = {.structure = find_structure("gla")}, .window = 6000};
  const MixInputs in = random_inputs(settings, {{2, 2}, 8, 1, 64}, at::kFloat);
  MixInputs exact = in;
  exact.states.clear();
  for (at::Tensor* x : {&exact.q, &exact.k, &exact.v}) *x = x->to(at::kDouble);
  const at::Tensor whole = reference_mix(settings, exact).o.view({2, 2, 8, 64});
  LayerState state;
  for (const int64_t seen : {0, 1}) {
    const at::Tensor past = at::full({2}, seen).to(kKernelDevice);
    const at::Tensor o = cuda_mix(settings, as_leaves(part(in, seen, 1), false), {seen, seen}, past, state).cpu();
    testing::expect_close(o.view({2, 1, 8, 64}), whole.narrow(1, seen, 1), 2e-5, "o");
  }
}

}  // namespace
}  // namespace liger
