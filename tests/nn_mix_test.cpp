// Every structure in compiled code against its definition, and the definitions against fixtures that an independent
// program wrote (compare/make_recurrence_goldens.py).

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/autograd.h>

#include <filesystem>
#include <numeric>

#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/io/safetensors.h"
#include "mix_testing.h"

namespace liger {
namespace {

using testing::as_leaves;
using testing::expect_close;
using testing::expect_equal_to_definition;
using testing::expect_splitting_changes_nothing;
using testing::random_inputs;
using testing::results;
using testing::Tensors;
using Shape = testing::MixShape;

std::string name_of(const Shape& s) {
  std::string text;
  for (const int64_t length : s.lengths) text += cat("T", length, "_");
  return text + cat("H", s.H, "_Hkv", s.Hkv, "_D", s.D);
}

MixSettings recurrence_alone(const Structure& structure) {
  return {.recurrence = {.structure = &structure, .layer = 1, .layers = 4}, .window = 0, .window_share = 0};
}

class EveryStructure : public ::testing::TestWithParam<std::tuple<size_t, Shape>> {};

TEST_P(EveryStructure, EqualsItsDefinition) {
  const auto& [row, shape] = GetParam();
  const MixSettings settings = recurrence_alone(structures()[row]);
  at::manual_seed(1);
  expect_equal_to_definition(settings, random_inputs(settings, shape, at::kFloat), 1e-5);
  expect_equal_to_definition(settings, random_inputs(settings, shape, at::kBFloat16), 1e-5);
}

std::vector<size_t> rows() {
  std::vector<size_t> out;
  for (size_t row = 0; row < structures().size(); ++row)
    if (!structures()[row].window_only) out.push_back(row);
  return out;
}
const auto kName = [](const auto& info) {
  std::string name = structures()[std::get<0>(info.param)].name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name + "_" + name_of(std::get<1>(info.param));
};

INSTANTIATE_TEST_SUITE_P(Lengths, EveryStructure,
                         ::testing::Combine(::testing::ValuesIn(rows()),
                                            ::testing::Values(Shape{{1}, 2, 1, 8}, Shape{{7}, 2, 2, 8},
                                                              Shape{{17}, 2, 1, 8}, Shape{{63}, 4, 2, 8},
                                                              Shape{{64}, 2, 1, 48}, Shape{{65}, 1, 1, 64},
                                                              Shape{{129}, 4, 2, 8}, Shape{{257}, 4, 2, 8},
                                                              Shape{{257}, 2, 1, 64}, Shape{{1000}, 2, 1, 8})),
                         kName);
INSTANTIATE_TEST_SUITE_P(Heads, EveryStructure,
                         ::testing::Combine(::testing::ValuesIn(rows()),
                                            ::testing::Values(Shape{{65}, 2, 2, 48}, Shape{{65}, 4, 1, 64},
                                                              Shape{{65}, 1, 1, 128}, Shape{{33}, 2, 1, 256},
                                                              Shape{{70}, 3, 1, 10})),
                         kName);
INSTANTIATE_TEST_SUITE_P(Packed, EveryStructure,
                         ::testing::Combine(::testing::ValuesIn(rows()),
                                            ::testing::Values(Shape{{20, 1, 130, 8, 7}, 4, 2, 8})),
                         kName);

// All lengths with all head sizes, grouped and not, in float32 and bfloat16, against the same code in float64: that is
// held to the definition above and in Fixtures, whose loop over tokens would take hours for these.
class WholeGrid : public ::testing::TestWithParam<size_t> {};

void expect_equal_to_float64(const MixSettings& settings, const MixInputs& in) {
  const MixInputs exact = as_leaves(in, true), leaves = as_leaves(in, false);
  const Tensors expected = results(exact, fused_mix(settings, exact)),
                got = results(leaves, fused_mix(settings, leaves));
  for (size_t i = 0; i < got.size(); ++i)
    expect_close(got[i], expected[i], got[i].scalar_type() == at::kBFloat16 ? 6e-3 : 1e-5, cat("result ", i).c_str());
}

TEST_P(WholeGrid, EqualsFloat64) {
  const MixSettings settings = recurrence_alone(structures()[GetParam()]);
  for (const int64_t D : {8, 48, 64, 128, 256})
    for (const int64_t T : {1, 7, 63, 64, 65, 257, 1000})
      for (const int64_t kv_heads : {1, 2}) {
        SCOPED_TRACE(cat("T ", T, ", D ", D, ", Hkv ", kv_heads));
        at::manual_seed(8);
        expect_equal_to_float64(settings, random_inputs(settings, {{T}, 2, kv_heads, D}, at::kFloat));
        expect_equal_to_float64(settings, random_inputs(settings, {{T}, 2, kv_heads, D}, at::kBFloat16));
      }
}

INSTANTIATE_TEST_SUITE_P(Structures, WholeGrid, ::testing::ValuesIn(rows()));

class Fixtures : public ::testing::TestWithParam<size_t> {};

TEST_P(Fixtures, OfAnIndependentProgramAreMet) {
  const Structure& structure = structures()[GetParam()];
  const auto file = std::filesystem::path(LIGER_TEST_DATA) / "recurrence" / cat(structure.name, ".safetensors");
  ASSERT_TRUE(std::filesystem::exists(file)) << "every structure needs a fixture: " << file;
  const SafetensorsFile fixture(file);
  std::map<std::string, at::Tensor> tensors;
  for (const TensorInfo& info : fixture.tensors()) tensors.emplace(info.name, map_tensor(fixture, info).clone());
  const auto leaf = [&](const std::string& name) { return tensors.at(name).requires_grad_(true); };

  const at::Tensor q = leaf("q"), k = leaf("k"), v = leaf("v");
  Tensors leaves = {q, k, v}, states;
  std::vector<std::string> gradients = {"dq", "dk", "dv"};
  for (size_t i = 0; i < state_shapes(structure, q.size(3)).size(); ++i) {
    states.push_back(leaf(cat("state_in.", i)));
    leaves.push_back(states.back());
    gradients.push_back(cat("dstate_in.", i));
  }
  MixSettings settings = recurrence_alone(structure);
  const auto check = [&](const at::Tensor& o, const Tensors& last, double tolerance) {
    at::Tensor loss = (o * tensors.at("w_o")).sum();
    expect_close(o, tensors.at("o"), tolerance, "o");
    for (size_t i = 0; i < last.size(); ++i) {
      loss = loss + (last[i] * tensors.at(cat("w_state.", i))).sum();
      expect_close(last[i], tensors.at(cat("state_out.", i)), tolerance, "state");
    }
    const auto got = torch::autograd::grad({loss}, leaves);
    for (size_t i = 0; i < got.size(); ++i)
      expect_close(got[i], tensors.at(gradients[i]), tolerance, gradients[i].c_str());
  };
  const RecurrenceOutputs defined = recurrence(settings.recurrence, {q, k, v, states});
  check(defined.o, defined.states, 1e-11);
  const auto packed = [](const at::Tensor& x) { return x.flatten(0, 1); };
  const MixOutputs fused =
      fused_mix(settings, {packed(q), packed(k), packed(v), {}, std::vector<int64_t>(q.size(0), q.size(1)), states});
  check(fused.o.view(q.sizes()), fused.states, 1e-10);
}

INSTANTIATE_TEST_SUITE_P(Structures, Fixtures, ::testing::ValuesIn(rows()));

class Streams : public ::testing::TestWithParam<size_t> {};

MixSettings mixed(const Structure* structure, int64_t window, int64_t sinks) {
  return {.recurrence = {.structure = structure, .layer = 1, .layers = 4},
          .window = window,
          .sinks = sinks,
          .window_share = structure ? 0.4 : 1.0};
}

// A sequence cut anywhere with its state carried, down to single tokens, is the sequence; by the definition too.
TEST_P(Streams, SplittingChangesNothing) {
  const Structure* structure = structures()[GetParam()].window_only ? nullptr : &structures()[GetParam()];
  at::NoGradGuard no_grad;
  for (const auto& [window, sinks] : {std::pair<int64_t, int64_t>{17, 0}, {6, 3}, {65, 0}, {100, 5}}) {
    const MixSettings settings = mixed(structure, window, sinks);
    at::manual_seed(5);
    MixInputs in = random_inputs(settings, {{90}, 4, 2, 8}, at::kFloat);
    in.states.clear();
    expect_splitting_changes_nothing(settings, in, 1e-5);
  }
}

// Window and recurrence together, with gradients.
TEST_P(Streams, MixtureEqualsItsDefinition) {
  const Structure* structure = structures()[GetParam()].window_only ? nullptr : &structures()[GetParam()];
  for (const auto& [window, sinks] : {std::pair<int64_t, int64_t>{17, 0}, {6, 3}, {1, 2}, {65, 0}}) {
    const MixSettings settings = mixed(structure, window, sinks);
    at::manual_seed(6);
    expect_equal_to_definition(settings, random_inputs(settings, {{80, 3, 12}, 4, 2, 8}, at::kFloat), 1e-5);
    expect_equal_to_definition(settings, random_inputs(settings, {{70}, 2, 2, 16}, at::kDouble), 1e-10);
  }
}

// Heads share jobs, more of them where there are fewer threads; the numbers are those of a head alone.
TEST_P(Streams, ThreadsChangeNothing) {
  const Structure* structure = structures()[GetParam()].window_only ? nullptr : &structures()[GetParam()];
  const MixSettings settings = mixed(structure, 17, 2);
  at::manual_seed(9);
  const MixInputs in = random_inputs(settings, {{129, 17, 1}, 14, 7, 16}, at::kFloat);
  const auto results_with = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    const MixInputs leaves = as_leaves(in, false);
    const Tensors out = results(leaves, fused_mix(settings, leaves));
    at::set_num_threads(before);
    return out;
  };
  const Tensors alone = results_with(16);
  for (const int threads : {1, 2, 5}) {
    const Tensors together = results_with(threads);
    for (size_t i = 0; i < alone.size(); ++i) EXPECT_TRUE(together[i].equal(alone[i])) << threads << " threads, " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Structures, Streams, ::testing::Range(size_t{0}, structures().size()));

// Keys that drive log-decays to 0, -1e-6, -50 and -1e4, everywhere and here and there.
TEST(HostileKeys, StayFiniteAndRight) {
  for (const size_t row : rows()) {
    const Structure& structure = structures()[row];
    const MixSettings settings = recurrence_alone(structure);
    at::manual_seed(7);
    const MixInputs usual = random_inputs(settings, {{70}, 2, 1, 16}, at::kFloat);
    // As keys: logsigmoid(k) is 0 at 200, -1e-6 at 13.8, -50 and -1e4 at the like; -exp(k) is -1e4 at 9.2.
    for (const double key : {200.0, 13.8, 9.2, 3.9, -50.0, -1e4}) {
      SCOPED_TRACE(cat(structure.name, " key ", key));
      MixInputs in = usual;
      in.k = (usual.k * 0.1 + key).to(at::kFloat);
      // Slots hold raw keys: without this their scores would be so large that float32 could not tell them apart.
      if (structure.slots) in.q = (usual.q / std::abs(key)).to(at::kFloat);
      expect_equal_to_definition(settings, in, 1e-5, /*overall=*/true);
      in.k = at::where(at::rand({70, 1, 1}) < 0.3, in.k, usual.k);
      expect_equal_to_definition(settings, in, 1e-5, /*overall=*/true);
    }
  }
}

TEST(FusedMix, RefusesWhatDisagrees) {
  const MixSettings settings = recurrence_alone(structures()[0]);
  MixInputs in = random_inputs(settings, {{4}, 4, 2, 8}, at::kFloat);
  in.lengths = {5};
  EXPECT_THROW(fused_mix(settings, in), Error);
}

}  // namespace
}  // namespace liger
