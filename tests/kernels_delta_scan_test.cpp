// The delta rule's CUDA sources, compiled for the host, against the definition and autograd through it.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "delta_scan.h"
#include "kernel_testing.h"
#include "liger/recurrence/recurrence.h"

namespace liger {
namespace {

using kernels::Type;

struct Shape {
  std::vector<int64_t> lengths;
  int64_t H, Hkv, K, V;
};

/// Inputs [N, heads, D], of the kernel's own precision but in float32, and the gradients that come in.
struct Problem {
  std::vector<int64_t> starts = {0};
  at::Tensor q, k, v, g, b, states, d_o, d_states;
};
at::Tensor unit(const at::Tensor& x) { return x / (x.square().sum(-1, /*keepdim=*/true) + 1e-6).sqrt(); }

/// Strengths as of a model's, and some of 0, 1 and nearly so.
at::Tensor strengths(int64_t N, int64_t heads) {
  at::Tensor b = at::sigmoid(at::randn({N, heads}) * 4);
  const at::Tensor which = at::rand({N, heads});
  b.masked_fill_(which < 0.1, 0);
  b.masked_fill_(which > 0.9, 1);
  b.masked_fill_(which.gt(0.1) * which.lt(0.2), 1e-30);
  return b;
}

Problem make_problem(const Shape& s, Type type, double gates, bool raw = false) {
  at::NoGradGuard no_grad;
  at::manual_seed(1);
  Problem p;
  for (const int64_t length : s.lengths) p.starts.push_back(p.starts.back() + length);
  const int64_t N = p.starts.back();
  const auto rounded = [&](const at::Tensor& x) { return x.to(scalar_type(type)).to(at::kFloat); };
  p.q = rounded(at::randn({N, s.H, s.K}));
  p.k = at::randn({N, s.Hkv, s.K});
  // A raw key's mean is a strength: let it differ from a half. Keys are alike, so that equations depend on others.
  p.k = rounded(raw ? p.k + 3 * at::randn({N, s.Hkv, 1}) : unit(p.k + 2 * at::randn({1, s.Hkv, s.K})));
  p.v = rounded(at::randn({N, s.Hkv, s.V}));
  p.g = at::log_sigmoid(at::randn({N, s.Hkv, s.K})) * gates;
  p.b = strengths(N, s.Hkv);
  p.states = at::randn({std::ssize(s.lengths), s.Hkv, s.K, s.V});
  p.d_o = rounded(at::randn({N, s.H, s.V}));
  p.d_states = at::randn(p.states.sizes());
  return p;
}

struct Outputs {
  at::Tensor o, states, r, d_v, u, w, d_b, d_states;
  std::vector<at::Tensor> all() const { return {o, states, r, d_v, u, w, d_b, d_states}; }
};

struct Options {
  kernels::Features features;
  bool zero_states = false;  ///< nothing comes in, nothing is wanted of the states
};

/// Both launchers, one after the other; what they write was NaN before.
Outputs run_kernels(const Problem& p, Type type, const Options& options = {}) {
  at::NoGradGuard no_grad;
  const auto typed = [&](const at::Tensor& x) { return x.to(scalar_type(type)); };
  const auto nan = [](at::IntArrayRef sizes) { return at::full(sizes, NAN); };
  const int64_t N = p.q.size(0), K = p.q.size(2), Hkv = p.k.size(1), V = p.v.size(2);
  const Guarded starts(at::tensor(p.starts));
  const Guarded q(typed(p.q)), k(typed(p.k)), v(typed(p.v)), g(p.g), b(p.b), before(p.states);
  const Guarded o(typed(nan({N, p.q.size(1), V}))), after(nan(p.states.sizes())), r(nan(p.v.sizes()));
  const Guarded d_o(typed(p.d_o)), d_after(p.d_states), d_before(nan(p.states.sizes()));
  const Guarded d_v(typed(nan(p.v.sizes()))), u(nan(p.v.sizes())), w(nan(p.v.sizes()));
  const Guarded d_b(nan({V / kernels::delta_scan_columns(K), N, Hkv}));

  kernels::DeltaScan common = {};
  common.type = type;
  common.sequences = std::ssize(p.starts) - 1;
  common.H = p.q.size(1);
  common.Hkv = Hkv;
  common.K = K;
  common.V = V;
  common.starts = starts.as<int64_t>();
  if (common.sequences == 1) {
    common.starts = nullptr;
    common.T = N;
  }
  common.q = q.as<void>();
  common.k = k.as<void>();
  common.g = options.features.raw ? nullptr : g.as<float>();
  common.b = options.features.raw ? nullptr : b.as<float>();
  common.features = options.features;

  kernels::DeltaScanForward forward = {};
  static_cast<kernels::DeltaScan&>(forward) = common;
  forward.v = v.as<void>();
  forward.state_in = options.zero_states ? nullptr : before.as<float>();
  forward.state_out = options.zero_states ? nullptr : after.as<float>();
  forward.o = o.as<void>();
  forward.r = r.as<float>();
  const char* problem = kernels::delta_scan_fwd(forward, nullptr);
  EXPECT_EQ(problem, nullptr) << problem;

  kernels::DeltaScanBackwardValues backward = {};
  static_cast<kernels::DeltaScan&>(backward) = common;
  backward.N = N;
  backward.d_o = d_o.as<void>();
  backward.r = r.as<float>();
  backward.d_state_out = options.zero_states ? nullptr : d_after.as<float>();
  backward.d_state_in = options.zero_states ? nullptr : d_before.as<float>();
  backward.d_v = d_v.as<void>();
  backward.u = u.as<float>();
  backward.w = w.as<float>();
  backward.d_b = d_b.as<float>();
  problem = kernels::delta_scan_bwd_values(backward, nullptr);
  EXPECT_EQ(problem, nullptr) << problem;
  return {o.values(), after.values(), r.values(),          d_v.values(),
          u.values(), w.values(),     d_b.values().sum(0), d_before.values()};
}

/// What the definition makes of features, in float64, with autograd.
struct Leaves {
  at::Tensor q, k, v, g, b, states;
  std::vector<at::Tensor> all() const { return {q, k, v, g, b, states}; }
};
at::Tensor leaf(const at::Tensor& x) { return x.to(at::kDouble).clone().requires_grad_(true); }
at::Tensor exact(const at::Tensor& x) { return x.to(at::kDouble); }

ScanOutputs definition(const Problem& p, const Leaves& in) {
  std::vector<at::Tensor> o, states;
  for (size_t s = 0; s + 1 < p.starts.size(); ++s) {
    const int64_t begin = p.starts[s], length = p.starts[s + 1] - begin;
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, length).unsqueeze(0); };
    states.push_back(in.states.narrow(0, static_cast<int64_t>(s), 1));
    if (length == 0) continue;
    const ScanOutputs out =
        gated_scan({part(in.q), part(in.k), part(in.v), part(in.g), part(in.b), states.back()}, ScanMethod::kReference);
    o.push_back(out.o.squeeze(0));
    states.back() = out.state;
  }
  return {at::cat(o), at::cat(states)};
}
at::Tensor loss(const Problem& p, const at::Tensor& o, const at::Tensor& states) {
  return (o * exact(p.d_o)).sum() + (states * exact(p.d_states)).sum();
}

/// The gradients of q, k and g from what the kernels left, as delta_scan.h says, token by token in float64; that of g
/// in both ways it may be had.
struct Remaining {
  at::Tensor q, k, g, g_by_sums;
};
Remaining remaining(const Problem& p, const Leaves& in, const Outputs& got) {
  at::NoGradGuard no_grad;
  const int64_t Hkv = p.k.size(1), group = p.q.size(1) / Hkv, K = p.q.size(2), V = p.v.size(2);
  const at::Tensor q = in.q.view({-1, Hkv, group, K}), d_o = exact(p.d_o).view({-1, Hkv, group, V});
  const at::Tensor u = exact(got.u), w = exact(got.w), a = at::exp(in.g).unsqueeze(-1);
  Remaining d = {at::zeros_like(q), at::zeros_like(in.k), at::zeros_like(in.g), at::zeros_like(in.g)};
  at::Tensor sums = at::zeros_like(in.g);
  const auto times = [](const at::Tensor& matrix, const at::Tensor& vector) {
    return at::matmul(matrix, vector.unsqueeze(-1)).squeeze(-1);
  };
  const auto outer = [](const at::Tensor& x, const at::Tensor& y) { return x.unsqueeze(-1) * y.unsqueeze(-2); };
  for (size_t s = 0; s + 1 < p.starts.size(); ++s) {
    std::vector<at::Tensor> decayed;  // diag(a_t) S_{t-1}
    at::Tensor S = in.states[static_cast<int64_t>(s)];
    for (int64_t t = p.starts[s]; t < p.starts[s + 1]; ++t) {
      decayed.push_back(a[t] * S);
      S = decayed.back() + outer(in.k[t], u[t]);
      d.q[t] = at::matmul(d_o[t], S.transpose(-1, -2));
    }
    at::Tensor G = exact(p.d_states[static_cast<int64_t>(s)]), suffix = (S * G).sum(-1);
    for (int64_t t = p.starts[s + 1] - 1; t >= p.starts[s]; --t) {
      const at::Tensor before = decayed[static_cast<size_t>(t - p.starts[s])];
      G = G + at::matmul(q[t].transpose(-1, -2), d_o[t]);
      const at::Tensor writes = times(G, u[t]), reads = times(before, w[t]);
      d.k[t] = writes + reads;
      suffix = suffix + (q[t] * d.q[t]).sum(1) - in.k[t] * writes + in.k[t] * reads;
      d.g_by_sums[t] = suffix;
      G = G + outer(in.k[t], w[t]);
      d.g[t] = (before * G).sum(-1);
      G = a[t] * G;
    }
  }
  d.q = d.q.view(p.q.sizes());
  return d;
}

double forward_tolerance(Type type) { return type == Type::kFloat ? 1e-5 : 1e-2; }
double gradient_tolerance(Type type) { return type == Type::kFloat ? 1e-5 : 2e-2; }

void expect_equal_to_definition(const Problem& p, Type type) {
  using testing::expect_close;
  const Outputs got = run_kernels(p, type);
  const Leaves in = {leaf(p.q), leaf(p.k), leaf(p.v), leaf(p.g), leaf(p.b), leaf(p.states)};
  const ScanOutputs out = definition(p, in);
  const auto d = torch::autograd::grad({loss(p, out.o, out.state)}, in.all());
  expect_close(got.o, out.o, forward_tolerance(type), "o");
  expect_close(got.states, out.state, forward_tolerance(type), "states");
  expect_close(got.u, exact(p.b).unsqueeze(-1) * exact(got.r), 1e-6, "u");
  const double tolerance = gradient_tolerance(type);
  expect_close(got.d_v, d[2], tolerance, "d_v");
  expect_close(got.w, -d[2], tolerance, "w");
  expect_close(got.d_b, d[4], tolerance, "d_b");
  expect_close(got.d_states, d[5], tolerance, "d_states");
  const Remaining rest = remaining(p, in, got);
  expect_close(rest.q, d[0], tolerance, "d_q");
  expect_close(rest.k, d[1], tolerance, "d_k");
  expect_close(rest.g, d[3], tolerance, "d_g");
  expect_close(rest.g_by_sums, d[3], tolerance, "d_g by sums");
}

class DeltaScanKernel : public ::testing::TestWithParam<std::tuple<Type, Shape, double>> {};

TEST_P(DeltaScanKernel, EqualsTheDefinition) {
  const auto& [type, shape, gates] = GetParam();
  expect_equal_to_definition(make_problem(shape, type, gates), type);
}

const auto all_types = ::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf);
// Gates of 30: some decays are e^-100.
INSTANTIATE_TEST_SUITE_P(Shapes, DeltaScanKernel,
                         ::testing::Combine(all_types,
                                            ::testing::Values(Shape{{1}, 4, 4, 64, 64}, Shape{{63}, 2, 1, 64, 64},
                                                              Shape{{20, 1, 0, 35, 16}, 2, 2, 64, 64},
                                                              Shape{{33}, 4, 1, 64, 64}),
                                            ::testing::Values(0.0, 1.0 / 16, 30.0)));
INSTANTIATE_TEST_SUITE_P(LongShapes, DeltaScanKernel,
                         ::testing::Combine(all_types, ::testing::Values(Shape{{257}, 1, 1, 64, 64}),
                                            ::testing::Values(1.0 / 16)));
INSTANTIATE_TEST_SUITE_P(WideShapes, DeltaScanKernel,
                         ::testing::Combine(all_types,
                                            ::testing::Values(Shape{{65}, 1, 1, 128, 128}, Shape{{17}, 4, 1, 128, 128},
                                                              Shape{{18}, 2, 1, 256, 256}, Shape{{17}, 6, 2, 64, 128}),
                                            ::testing::Values(1.0)));

// Raw projections: the structures of the delta rule, with what core/structure.h says of them.
kernels::Features features_of(const Structure& s, double divisor) {
  using namespace kernels;
  return {true,          Map::kUnit,
          Map::kUnit,    s.decay == Decay::kNone ? Gate::kConstant : Gate::kLogSigmoid,
          s.per_channel, static_cast<float>(divisor),
          nullptr};
}
/// The same in ATen, for the gradients that go through features.
Leaves features_of(const Structure& s, double divisor, const Leaves& raw) {
  const at::Tensor mean = raw.k.mean(-1), x = s.per_channel ? raw.k : mean.unsqueeze(-1).expand_as(raw.k);
  const at::Tensor g = s.decay == Decay::kNone ? raw.k * 0 : at::log_sigmoid(x) / divisor;
  return {unit(raw.q), unit(raw.k), raw.v, g, at::sigmoid(mean), raw.states};
}

class RawDeltaScanKernel : public ::testing::TestWithParam<std::tuple<Type, const char*, Shape>> {};

TEST_P(RawDeltaScanKernel, EqualsTheDefinition) {
  using testing::expect_close;
  const auto& [type, name, shape] = GetParam();
  const LayerRecurrence layer = {.structure = find_structure(name)};
  const Problem p = make_problem(shape, type, 1, /*raw=*/true);
  const Leaves raw = {leaf(p.q), leaf(p.k), leaf(p.v), {}, {}, leaf(p.states)};
  const auto batch = [](const at::Tensor& x) { return x.unsqueeze(0); };
  const RecurrenceOutputs out = recurrence(layer, {batch(raw.q), batch(raw.k), batch(raw.v), {raw.states}});
  const auto d = torch::autograd::grad({loss(p, out.o.squeeze(0), out.states[0])}, {raw.q, raw.k, raw.v, raw.states});

  const Outputs got = run_kernels(p, type, {features_of(*layer.structure, layer.divisor())});
  expect_close(got.o, out.o.squeeze(0), forward_tolerance(type), "o");
  expect_close(got.states, out.states[0], forward_tolerance(type), "states");
  const double tolerance = gradient_tolerance(type);
  expect_close(got.d_v, d[2], tolerance, "d_v");
  expect_close(got.d_states, d[3], tolerance, "d_states");
  const Leaves in = features_of(*layer.structure, layer.divisor(), raw);
  const Remaining rest = remaining(p, in, got);
  const at::Tensor through =
      (in.q * rest.q).sum() + (in.k * rest.k).sum() + (in.g * rest.g).sum() + (in.b * exact(got.d_b)).sum();
  const auto d_raw = torch::autograd::grad({through}, {raw.q, raw.k});
  expect_close(d_raw[0], d[0], tolerance, "d_q");
  expect_close(d_raw[1], d[1], tolerance, "d_k");
}

INSTANTIATE_TEST_SUITE_P(Structures, RawDeltaScanKernel,
                         ::testing::Combine(all_types, ::testing::Values("deltanet", "gated-deltanet", "kda"),
                                            ::testing::Values(Shape{{40}, 4, 2, 64, 64}, Shape{{17}, 3, 1, 128, 128})));

// Where no state is given it is zero, and where none is wanted none is written.
TEST(DeltaScanKernelStates, MayBeLeftOut) {
  Problem p = make_problem({{35}, 2, 1, 64, 64}, Type::kFloat, 1);
  const Outputs without = run_kernels(p, Type::kFloat, {{}, /*zero_states=*/true});
  p.states.zero_();
  p.d_states.zero_();
  const Outputs with = run_kernels(p, Type::kFloat);
  EXPECT_TRUE(without.states.isnan().all().item<bool>() && without.d_states.isnan().all().item<bool>());
  EXPECT_TRUE(without.o.equal(with.o) && without.r.equal(with.r) && without.d_v.equal(with.d_v) &&
              without.d_b.equal(with.d_b));
}

TEST(DeltaScanKernelThreads, OrderChangesNothing) {
  const kernels::Features kda = features_of(*find_structure("kda"), 16);
  const auto check = [](const Shape& shape, Type type, const Options& options) {
    const Problem p = make_problem(shape, type, 1, options.features.raw);
    const auto first = run_kernels(p, type, options).all();
    for (const unsigned order : {1u, 2u, 3u}) {
      cuda_on_host::thread_order = order;
      const auto other = run_kernels(p, type, options).all();
      cuda_on_host::thread_order = 0;
      for (size_t i = 0; i < first.size(); ++i)
        EXPECT_TRUE(other[i].equal(first[i])) << "output " << i << ", order " << order;
    }
  };
  check({{40, 9}, 4, 2, 64, 64}, Type::kBFloat16, {});
  check({{35}, 3, 1, 64, 64}, Type::kBFloat16, {kda});
  check({{18}, 3, 1, 64, 64}, Type::kFloat, {kda});
  check({{18}, 1, 1, 256, 128}, Type::kFloat, {});
}

template <typename Arguments, typename Launch>
void expect_refusals(const Launch& launch) {
  Arguments args = {};
  args.K = 48;
  EXPECT_STREQ(launch(args, nullptr), "the size of a key must be 64, 128 or 256");
  args.K = 64;
  args.V = 40;
  EXPECT_STREQ(launch(args, nullptr), "with keys of 64 the size of a value must be a multiple of 64");
  args.K = 256;
  args.V = 64;
  EXPECT_STREQ(launch(args, nullptr), "with keys of 128 or 256 the size of a value must be a multiple of 128");
  args.V = 128;
  args.H = 3;
  args.Hkv = 2;
  EXPECT_STREQ(launch(args, nullptr), "query heads must be a multiple of key/value heads");
  args.H = 65536;
  EXPECT_STREQ(launch(args, nullptr), "at most 65535 query heads and sequences");
}
TEST(DeltaScanKernel, SaysWhatItCannotRun) {
  expect_refusals<kernels::DeltaScanForward>(kernels::delta_scan_fwd);
  expect_refusals<kernels::DeltaScanBackwardValues>(kernels::delta_scan_bwd_values);
}

}  // namespace
}  // namespace liger
