// The CUDA sources, compiled for the host, against the definition.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/randn.h>

#include "diagonal_scan.h"
#include "kernel_testing.h"
#include "liger/recurrence/recurrence.h"

namespace liger {
namespace {

using kernels::DiagonalScanForward;
using kernels::Type;

struct Shape {
  std::vector<int64_t> lengths;
  int64_t H, Hkv, K, V;
};

struct Scan {
  ScanInputs in;  // one sequence of all tokens, of the kernel's own precision but in float32
  std::vector<int64_t> starts = {0};
  at::Tensor states;

  Scan(const Shape& s, Type type, double strength) {
    at::manual_seed(1);
    for (const int64_t length : s.lengths) starts.push_back(starts.back() + length);
    const auto randn = [&](int64_t heads, int64_t n) {
      return at::randn({1, starts.back(), heads, n}).to(scalar_type(type)).to(at::kFloat);
    };
    in = {randn(s.H, s.K), randn(s.Hkv, s.K), randn(s.Hkv, s.V),
          at::log_sigmoid(at::randn({1, starts.back(), s.Hkv, s.K})) * strength, {}, {}};
    states = at::randn({std::ssize(s.lengths), s.Hkv, s.K, s.V});
  }
};

ScanOutputs run_kernel(const Scan& scan, Type type, const kernels::Features& features = {}) {
  const ScanInputs& in = scan.in;
  const auto typed = [&](const at::Tensor& x) { return x.to(scalar_type(type)); };
  const Guarded q(typed(in.q)), k(typed(in.k)), v(typed(in.v)), g(in.g), before(scan.states);
  const Guarded after(at::full_like(scan.states, NAN));
  const Guarded o(typed(at::full({1, in.q.size(1), in.q.size(2), in.v.size(3)}, NAN)));
  DiagonalScanForward args = {};
  args.type = type;
  args.sequences = std::ssize(scan.starts) - 1;
  args.H = in.q.size(2);
  args.Hkv = in.k.size(2);
  args.K = in.k.size(3);
  args.V = in.v.size(3);
  args.starts = scan.starts.data();
  args.q = q.as<void>();
  args.k = k.as<void>();
  args.v = v.as<void>();
  args.g = features.raw ? nullptr : g.as<float>();
  args.features = features;
  args.state_in = before.as<float>();
  args.state_out = after.as<float>();
  args.o = o.as<void>();
  const char* problem = kernels::diagonal_scan_fwd(args, nullptr);
  EXPECT_EQ(problem, nullptr) << problem;
  return {o.values(), after.values()};
}

ScanOutputs definition(const Scan& scan) {
  ScanOutputs all;
  std::vector<at::Tensor> o, states;
  for (size_t s = 0; s + 1 < scan.starts.size(); ++s) {
    const auto part = [&](const at::Tensor& x) {
      return x.narrow(1, scan.starts[s], scan.starts[s + 1] - scan.starts[s]).to(at::kDouble);
    };
    const at::Tensor state = scan.states.narrow(0, static_cast<int64_t>(s), 1).to(at::kDouble);
    if (scan.starts[s] == scan.starts[s + 1]) {
      states.push_back(state);
      continue;
    }
    const ScanInputs& in = scan.in;
    const ScanOutputs out =
        gated_scan({part(in.q), part(in.k), part(in.v), part(in.g), {}, state}, ScanMethod::kReference);
    o.push_back(out.o);
    states.push_back(out.state);
  }
  return {at::cat(o, 1), at::cat(states)};
}

void expect_equal_to_definition(const Shape& shape, Type type, double strength) {
  at::NoGradGuard no_grad;
  const Scan scan(shape, type, strength);
  const ScanOutputs expected = definition(scan), got = run_kernel(scan, type);
  const double tolerance = type == Type::kFloat ? 1e-5 : 1e-2;
  testing::expect_close(got.o, expected.o, tolerance, "o");
  testing::expect_close(got.state, expected.state, tolerance, "state");
}

class DiagonalScanKernel : public ::testing::TestWithParam<std::tuple<Type, Shape>> {};

TEST_P(DiagonalScanKernel, EqualsTheDefinition) {
  const auto& [type, shape] = GetParam();
  for (const double strength : {1.0 / 16, 30.0}) {  // some of e^-100
    SCOPED_TRACE(strength);
    expect_equal_to_definition(shape, type, strength);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DiagonalScanKernel,
    ::testing::Combine(::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf),
                       ::testing::Values(Shape{{1}, 1, 1, 64, 64}, Shape{{63}, 2, 2, 64, 64},
                                         Shape{{65}, 4, 1, 64, 64}, Shape{{257}, 1, 1, 64, 64},
                                         Shape{{33}, 2, 1, 128, 128}, Shape{{17}, 3, 1, 64, 128},
                                         Shape{{18}, 2, 1, 256, 256}, Shape{{17}, 8, 2, 128, 256},
                                         Shape{{20, 1, 0, 35, 16}, 2, 1, 64, 64})));

// Raw projections: every structure that is one diagonal scan, with what core/structure.h says of it.
class RawDiagonalScanKernel : public ::testing::TestWithParam<std::tuple<Type, const char*>> {};

kernels::Features features_of(const Structure& s, double divisor, const std::vector<float>& constants) {
  using namespace kernels;
  const auto map = [](FeatureMap how) {
    return how == FeatureMap::kSoftmax      ? Map::kSoftmax
           : how == FeatureMap::kUnit       ? Map::kUnit
           : how == FeatureMap::kComplement ? Map::kComplement
                                            : Map::kIdentity;
  };
  const Gate gate = s.decay == Decay::kLogSigmoid ? Gate::kLogSigmoid
                    : s.decay == Decay::kSoftplus ? Gate::kSoftplus
                    : s.decay == Decay::kExp      ? Gate::kExp
                                                  : Gate::kConstant;
  return {true, map(s.query), map(s.key), gate, s.per_channel, static_cast<float>(divisor), constants.data()};
}

TEST_P(RawDiagonalScanKernel, EqualsTheDefinition) {
  at::NoGradGuard no_grad;
  const auto& [type, name] = GetParam();
  for (const Shape& shape : {Shape{{40}, 4, 2, 64, 64}, Shape{{17}, 1, 1, 128, 128}}) {
    const LayerRecurrence layer = {.structure = find_structure(name), .layer = 1, .layers = 4};
    Scan scan(shape, type, 1);
    const ScanInputs& in = scan.in;
    const auto exact = [](const at::Tensor& x) { return x.to(at::kDouble); };
    const RecurrenceOutputs expected =
        recurrence(layer, exact(in.q), exact(in.k), exact(in.v), {exact(scan.states)});
    std::vector<float> constants;
    for (int64_t h = 0; h < shape.Hkv; ++h) {
      const double g = layer.structure->gated()
                           ? 0
                           : constant_log_decay(*layer.structure, h, shape.Hkv, layer.layer, layer.layers);
      constants.push_back(static_cast<float>(g));
    }
    const ScanOutputs got = run_kernel(scan, type, features_of(*layer.structure, layer.divisor(), constants));
    const double tolerance = type == Type::kFloat ? 1e-5 : 1e-2;
    testing::expect_close(got.o, expected.o, tolerance, "o");
    testing::expect_close(got.state, expected.states[0], tolerance, "state");
  }
}

INSTANTIATE_TEST_SUITE_P(Structures, RawDiagonalScanKernel,
                         ::testing::Combine(::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf),
                                            ::testing::Values("gla", "hgrn2", "gated-retention", "mamba2", "retnet",
                                                              "lightning", "linear")));

TEST(DiagonalScanKernelThreads, OrderChangesNothing) {
  at::NoGradGuard no_grad;
  const Scan scan({{40, 9}, 4, 2, 64, 64}, Type::kBFloat16, 1.0);
  const std::vector<float> constants = {0, 0};
  for (const auto& features :
       {kernels::Features{}, features_of(*find_structure("gated-retention"), 16, constants)}) {
    const ScanOutputs first = run_kernel(scan, Type::kBFloat16, features);
    for (const unsigned order : {1u, 2u, 3u}) {
      cuda_on_host::thread_order = order;
      const ScanOutputs other = run_kernel(scan, Type::kBFloat16, features);
      cuda_on_host::thread_order = 0;
      EXPECT_TRUE(other.o.equal(first.o) && other.state.equal(first.state)) << "order " << order;
    }
  }
}

TEST(DiagonalScanKernel, SaysWhatItCannotRun) {
  DiagonalScanForward args = {};
  args.K = 48;
  EXPECT_STREQ(kernels::diagonal_scan_fwd(args, nullptr), "the size of a key must be 64, 128 or 256");
  args.K = 64;
  args.V = 40;
  EXPECT_STREQ(kernels::diagonal_scan_fwd(args, nullptr),
               "with keys of 64 the size of a value must be a multiple of 64");
}

}  // namespace
}  // namespace liger
