// Every way to run a scan against its definition: outputs, last state and all gradients.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "liger/error.h"
#include "liger/recurrence/recurrence.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using testing::expect_close;

struct Shape {
  int64_t B, T, H, Hkv, K, V;
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << cat("B", s.B, "_T", s.T, "_H", s.H, "_Hkv", s.Hkv, "_K", s.K, "_V", s.V);
}

ScanInputs random_inputs(const Shape& s, at::ScalarType type) {
  const auto randn = [&](std::vector<int64_t> shape) { return at::randn(shape, at::kDouble).to(type); };
  return {randn({s.B, s.T, s.H, s.K}),
          randn({s.B, s.T, s.Hkv, s.K}),
          randn({s.B, s.T, s.Hkv, s.V}),
          at::log_sigmoid(randn({s.B, s.T, s.Hkv, s.K})),
          {},
          randn({s.B, s.Hkv, s.K, s.V})};
}

// The same with a delta rule: keys of length 1 and strengths of 0 to 1, as its users have them.
ScanInputs with_delta_rule(ScanInputs in) {
  in.k = in.k / in.k.square().sum(-1, true).sqrt();
  in.b = at::rand({in.k.size(0), in.k.size(1), in.k.size(2)}, at::kDouble).to(in.k.scalar_type());
  return in;
}

std::vector<at::Tensor> all(const ScanInputs& in) {
  std::vector<at::Tensor> out = {in.q, in.k, in.v, in.g, in.state};
  if (in.b.defined()) out.push_back(in.b);
  return out;
}

ScanInputs as_leaves(const ScanInputs& in, at::ScalarType type) {
  const auto leaf = [&](const at::Tensor& x) { return x.to(type).detach().clone().requires_grad_(true); };
  return {leaf(in.q), leaf(in.k), leaf(in.v), leaf(in.g), in.b.defined() ? leaf(in.b) : in.b, leaf(in.state)};
}

// Output, state and gradients of a fixed random projection of both.
std::vector<at::Tensor> run(const ScanInputs& in, ScanMethod method, const at::Tensor& weight_o,
                            const at::Tensor& weight_state) {
  const ScanOutputs out = gated_scan(in, method);
  const auto type = in.q.scalar_type();
  const at::Tensor loss = (out.o * weight_o.to(type)).sum() + (out.state * weight_state.to(type)).sum();
  std::vector<at::Tensor> results = {out.o, out.state};
  for (const at::Tensor& gradient : torch::autograd::grad({loss}, all(in))) results.push_back(gradient);
  return results;
}

void expect_equal_to_definition(const ScanInputs& in, ScanMethod method, double tolerance) {
  static const char* kNames[] = {"o", "state", "dq", "dk", "dv", "dg", "dstate", "db"};
  const at::Tensor weight_o = at::randn({in.q.size(0), in.q.size(1), in.q.size(2), in.v.size(3)}, at::kDouble);
  const at::Tensor weight_state = at::randn(in.state.sizes(), at::kDouble);
  const auto expected = run(as_leaves(in, at::kDouble), ScanMethod::kReference, weight_o, weight_state);
  const auto got = run(as_leaves(in, in.q.scalar_type()), method, weight_o, weight_state);
  for (size_t i = 0; i < got.size(); ++i) expect_close(got[i], expected[i], tolerance, kNames[i]);
}

class Scan : public ::testing::TestWithParam<std::tuple<Shape, ScanMethod>> {};

TEST_P(Scan, EqualsDefinition) {
  const auto [shape, method] = GetParam();
  at::manual_seed(1);
  expect_equal_to_definition(random_inputs(shape, at::kFloat), method, 1e-5);
  expect_equal_to_definition(random_inputs(shape, at::kDouble), method, 1e-10);
}

TEST_P(Scan, EqualsDefinitionOfTheDeltaRule) {
  const auto [shape, method] = GetParam();
  at::manual_seed(3);
  const ScanInputs narrow = with_delta_rule(random_inputs(shape, at::kFloat));
  if (method == ScanMethod::kChunked) {
    EXPECT_THROW(gated_scan(narrow, method), Error);
    return;
  }
  expect_equal_to_definition(narrow, method, 1e-5);
  expect_equal_to_definition(with_delta_rule(random_inputs(shape, at::kDouble)), method, 1e-10);
}

TEST_P(Scan, GivesOutputsWithoutGradients) {
  const auto [shape, method] = GetParam();
  at::manual_seed(2);
  const ScanInputs in = random_inputs(shape, at::kFloat);
  const ScanOutputs expected = gated_scan(in, ScanMethod::kReference), got = gated_scan(in, method);
  expect_close(got.o, expected.o, 1e-5, "o");
  expect_close(got.state, expected.state, 1e-5, "state");
}

INSTANTIATE_TEST_SUITE_P(Shapes, Scan,
                         ::testing::Combine(::testing::Values(Shape{1, 1, 1, 1, 8, 8}, Shape{2, 7, 4, 2, 8, 8},
                                                              Shape{1, 16, 3, 1, 5, 3}, Shape{1, 300, 10, 5, 33, 20},
                                                              Shape{1, 17, 6, 1, 32, 32}, Shape{1, 300, 2, 2, 8, 8},
                                                              Shape{2, 64, 2, 2, 48, 16}, Shape{1, 65, 10, 2, 33, 20},
                                                              Shape{1, 33, 4, 1, 64, 128}),
                                            ::testing::Values(ScanMethod::kChunked, ScanMethod::kFused)));

class HostileGates : public ::testing::TestWithParam<ScanMethod> {};

// Log-decays from none at all to beyond what exp can hold, alone and mixed token by token.
TEST_P(HostileGates, StayFiniteAndRight) {
  at::manual_seed(3);
  const Shape shape{1, 70, 2, 1, 16, 8};
  ScanInputs in = random_inputs(shape, at::kFloat);
  const at::Tensor usual = in.g;
  for (const double hostile : {0.0, -1e-6, -50.0, -1e4}) {
    in.g = at::full(usual.sizes(), hostile, at::kFloat);
    expect_equal_to_definition(in, GetParam(), 1e-5);
    if (GetParam() == ScanMethod::kFused) expect_equal_to_definition(with_delta_rule(in), GetParam(), 1e-5);
    in.g = at::where(at::rand(usual.sizes()) < 0.3, in.g, usual * 1e-3);
    expect_equal_to_definition(in, GetParam(), 1e-5);
    if (GetParam() == ScanMethod::kFused) expect_equal_to_definition(with_delta_rule(in), GetParam(), 1e-5);
  }
}

TEST_P(HostileGates, MinusInfinityForgets) {
  at::manual_seed(4);
  ScanInputs in = random_inputs({1, 40, 2, 1, 8, 8}, at::kFloat);
  in.g.select(1, 25).fill_(-std::numeric_limits<float>::infinity());
  const ScanOutputs whole = gated_scan(in, GetParam());
  ScanInputs tail = {
      in.q.narrow(1, 25, 15), in.k.narrow(1, 25, 15), in.v.narrow(1, 25, 15), in.g.narrow(1, 25, 15), {}, {}};
  expect_close(whole.o.narrow(1, 25, 15), gated_scan(tail, GetParam()).o, 1e-6, "o");
}

// A sequence cut anywhere, its state carried, is the sequence.
TEST_P(HostileGates, SplittingChangesNothing) {
  at::manual_seed(5);
  const ScanInputs in = random_inputs({2, 50, 4, 2, 16, 16}, at::kFloat);
  const ScanOutputs whole = gated_scan(in, GetParam());
  for (const int64_t cut : {1, 15, 16, 17, 49}) {
    const auto part = [&](int64_t begin, int64_t length, const at::Tensor& state) {
      return ScanInputs{in.q.narrow(1, begin, length),
                        in.k.narrow(1, begin, length),
                        in.v.narrow(1, begin, length),
                        in.g.narrow(1, begin, length),
                        {},
                        state};
    };
    const ScanOutputs first = gated_scan(part(0, cut, in.state), GetParam());
    const ScanOutputs second = gated_scan(part(cut, 50 - cut, first.state), GetParam());
    expect_close(at::cat({first.o, second.o}, 1), whole.o, 1e-5, "o");
    expect_close(second.state, whole.state, 1e-5, "state");
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, HostileGates, ::testing::Values(ScanMethod::kChunked, ScanMethod::kFused));

TEST(ScanInputs, ThatDisagreeAreRefused) {
  ScanInputs in = random_inputs({1, 4, 3, 2, 8, 8}, at::kFloat);  // 3 query heads on 2
  EXPECT_THROW(gated_scan(in), Error);
  in = random_inputs({1, 4, 2, 2, 8, 8}, at::kFloat);
  in.v = in.v.to(at::kDouble);
  EXPECT_THROW(gated_scan(in), Error);
}

}  // namespace
}  // namespace liger
