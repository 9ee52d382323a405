// The CUDA sources, compiled for the host, against the definition.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include "diagonal_scan.h"
#include "kernel_testing.h"
#include "liger/recurrence/recurrence.h"
#include "nn/cuda_calls.h"

namespace liger {
namespace {

using kernels::Type;

struct Shape {
  std::vector<int64_t> lengths;
  int64_t H, Hkv, K, V;
};

// How sequences are cut.
struct Parts {
  int64_t count = 1;
  bool side_by_side = false;
};

struct Scan {
  ScanInputs in;  // one sequence of all tokens, of the kernel's own precision but in float32
  std::vector<int64_t> starts = {0};
  at::Tensor states, d_o, d_states;

  Scan(const Shape& s, Type type, double strength) {
    at::manual_seed(1);
    for (const int64_t length : s.lengths) starts.push_back(starts.back() + length);
    const auto randn = [&](int64_t heads, int64_t n) {
      return at::randn({1, starts.back(), heads, n}).to(scalar_type(type)).to(at::kFloat);
    };
    in = {randn(s.H, s.K),
          randn(s.Hkv, s.K),
          randn(s.Hkv, s.V),
          at::log_sigmoid(at::randn({1, starts.back(), s.Hkv, s.K})) * strength,
          {},
          {}};
    states = at::randn({std::ssize(s.lengths), s.Hkv, s.K, s.V});
    d_o = randn(s.H, s.V);
    d_states = at::randn_like(states);
  }
  // Sequence s of x [1, N, ..], in float64.
  at::Tensor part(const at::Tensor& x, size_t s) const {
    return x.narrow(1, starts[s], starts[s + 1] - starts[s]).to(at::kDouble);
  }
};

// What a pass is given and leaves, where the kernels can reach it.
class OnDevice {
 public:
  OnDevice(const Scan& scan, Type type, const kernels::Features& features, const Parts& parts)
      : type_(scalar_type(type)),
        starts_(at::tensor(scan.starts)),
        q_(typed(scan.in.q)),
        k_(typed(scan.in.k)),
        v_(typed(scan.in.v)),
        g_(scan.in.g),
        state_in_(scan.states),
        d_o_(typed(scan.d_o)),
        d_state_out_(scan.d_states),
        o_(like(scan.d_o)),
        state_out_(at::full_like(scan.states, NAN)),
        d_q_(like(scan.in.q)),
        d_k_(like(scan.in.k)),
        d_v_(like(scan.in.v)),
        d_g_(at::full_like(scan.in.g, NAN)),
        d_state_in_(at::full_like(scan.states, NAN)),
        states_(at::full(
            {scan.states.size(0), parts.count, scan.states.size(1), scan.states.size(2), scan.states.size(3)}, NAN)),
        decays_(at::full({scan.states.size(0), parts.count, scan.states.size(1), scan.states.size(2)}, NAN)) {
    scan_.type = type;
    scan_.N = scan.starts.back();
    scan_.sequences = std::ssize(scan.starts) - 1;
    scan_.H = scan.in.q.size(2);
    scan_.Hkv = scan.in.k.size(2);
    scan_.K = scan.in.k.size(3);
    scan_.V = scan.in.v.size(3);
    scan_.starts = starts_.as<int64_t>();
    scan_.q = q_.as<void>();
    scan_.k = k_.as<void>();
    scan_.v = v_.as<void>();
    scan_.g = features.raw ? nullptr : g_.as<float>();
    scan_.features = features;
    scan_.parts = parts.count;
    scan_.side_by_side = parts.side_by_side;
  }
  void read_before_decay(bool before) { scan_.reads_before_decay = before; }
  ScanOutputs forward() {
    const kernels::DiagonalScanForward args = {
        scan_, state_in_.as<float>(), state_out_.as<float>(), states_.as<float>(), decays_.as<float>(), o_.as<void>()};
    const char* problem = kernels::diagonal_scan_fwd(args, nullptr);
    EXPECT_EQ(problem, nullptr) << problem;
    return {o_.values(), state_out_.values()};
  }
  // Of d_o in the place of x.
  ScanOutputs rows() {
    const Guarded y(at::full({1, scan_.N, scan_.H, scan_.K}, NAN));
    const kernels::DiagonalScanRows args = {scan_,
                                            d_o_.as<void>(),
                                            state_in_.as<float>(),
                                            state_out_.as<float>(),
                                            states_.as<float>(),
                                            decays_.as<float>(),
                                            y.as<float>()};
    const char* problem = kernels::diagonal_scan_rows(args, nullptr);
    EXPECT_EQ(problem, nullptr) << problem;
    return {y.values(), state_out_.values()};
  }
  // d_q, d_k, d_v, d_state_in, and d_g of given log-decays.
  std::vector<at::Tensor> backward() {
    kernels::DiagonalScanBackward args = {};
    args.scan = scan_;
    args.d_o = d_o_.as<void>();
    args.d_state_out = d_state_out_.as<float>();
    args.state_out = state_out_.as<float>();
    args.states = states_.as<float>();
    args.state_in = state_in_.as<float>();
    args.d_q = d_q_.as<void>();
    args.d_k = d_k_.as<void>();
    args.d_v = d_v_.as<void>();
    args.d_g = d_g_.as<float>();
    args.d_state_in = d_state_in_.as<float>();
    const Guarded workspace(at::full({kernels::diagonal_scan_bwd_workspace(args) / 4}, NAN));
    args.workspace = workspace.as<void>();
    const char* problem = kernels::diagonal_scan_bwd(args, nullptr);
    EXPECT_EQ(problem, nullptr) << problem;
    std::vector<at::Tensor> out = {d_q_.values(), d_k_.values(), d_v_.values(), d_state_in_.values()};
    if (!scan_.features.raw) out.push_back(d_g_.values());
    return out;
  }

 private:
  at::Tensor typed(const at::Tensor& x) const { return x.to(type_); }
  at::Tensor like(const at::Tensor& x) const { return at::full_like(x, NAN).to(type_); }

  at::ScalarType type_;
  kernels::DiagonalScan scan_ = {};
  Guarded starts_, q_, k_, v_, g_, state_in_, d_o_, d_state_out_;
  Guarded o_, state_out_, d_q_, d_k_, d_v_, d_g_, d_state_in_, states_, decays_;
};

// The definition sequence by sequence; `run` gives o and the last state of one, from its q, k, v, g and state.
struct Expected {
  ScanOutputs out;
  std::vector<at::Tensor> gradients;
  at::Tensor k_d_k;
};
template <typename Run>
Expected by_definition(const Scan& scan, const Run& run, bool has_g) {
  std::vector<at::Tensor> o, states, d_q, d_k, d_v, d_g, d_states;
  for (size_t s = 0; s + 1 < scan.starts.size(); ++s) {
    const auto row = [&](const at::Tensor& x) { return x.narrow(0, static_cast<int64_t>(s), 1).to(at::kDouble); };
    if (scan.starts[s] == scan.starts[s + 1]) {
      states.push_back(row(scan.states));
      d_states.push_back(row(scan.d_states));
      continue;
    }
    std::vector<at::Tensor> in = {scan.part(scan.in.q, s), scan.part(scan.in.k, s), scan.part(scan.in.v, s),
                                  scan.part(scan.in.g, s), row(scan.states)};
    for (at::Tensor& x : in) x.requires_grad_();
    const ScanOutputs out = run(in);
    at::Tensor loss = (out.o * scan.part(scan.d_o, s)).sum() + (out.state * row(scan.d_states)).sum();
    loss.backward();
    o.push_back(out.o.detach());
    states.push_back(out.state.detach());
    d_q.push_back(in[0].grad());
    d_k.push_back(in[1].grad());
    d_v.push_back(in[2].grad());
    if (has_g) d_g.push_back(in[3].grad());
    d_states.push_back(in[4].grad());
  }
  Expected out = {
      {at::cat(o, 1), at::cat(states)}, {at::cat(d_q, 1), at::cat(d_k, 1), at::cat(d_v, 1), at::cat(d_states)}, {}};
  out.k_d_k = scan.in.k * out.gradients[1];
  if (has_g) out.gradients.push_back(at::cat(d_g, 1));
  return out;
}
Expected definition(const Scan& scan) {
  const auto run = [](const std::vector<at::Tensor>& x) {
    return gated_scan({x[0], x[1], x[2], x[3], {}, x[4]}, ScanMethod::kReference);
  };
  return by_definition(scan, run, true);
}

void expect_equal(OnDevice& device, const Expected& expected, Type type, bool backward) {
  const double tolerance = type == Type::kFloat ? 1e-5 : 1e-2;
  const ScanOutputs got = device.forward();
  testing::expect_close(got.o, expected.out.o, tolerance, "o");
  testing::expect_close(got.state, expected.out.state, tolerance, "state");
  if (!backward) return;
  const char* names[] = {"d_q", "d_k", "d_v", "d_state", "d_g"};
  const std::vector<at::Tensor> gradients = device.backward();
  ASSERT_EQ(gradients.size(), expected.gradients.size());
  for (size_t i = 0; i < gradients.size(); ++i) {
    at::Tensor got_d = gradients[i], expected_d = expected.gradients[i];
    // d_g has a term that is a difference; in 16 bits it is exact to the size of its parts.
    if (i == 4 && type != Type::kFloat) {
      const at::Tensor size = expected.k_d_k.abs().max().view({1});
      got_d = at::cat({got_d.flatten().to(at::kDouble), size});
      expected_d = at::cat({expected_d.flatten(), size});
    }
    testing::expect_close(got_d, expected_d, 2 * tolerance, names[i]);
  }
}

// Gated slot attention's keys: the state read by its columns, with 1 - decay as a key.
TEST(DiagonalScanRowsKernel, EqualsTheDefinition) {
  for (const Type type : {Type::kFloat, Type::kBFloat16})
    for (const Parts& parts : {Parts{}, Parts{2, true}}) {
      const Scan scan({{37, 0, 16}, 4, 2, 64, 64}, type, 1);
      OnDevice device(
          scan, type,
          {true, kernels::Map::kIdentity, kernels::Map::kForgotten, kernels::Gate::kLogSigmoid, true, 16, nullptr},
          parts);
      const ScanOutputs got = device.rows();
      const double tolerance = type == Type::kFloat ? 1e-5 : 1e-2;
      for (size_t s = 0; s + 1 < scan.starts.size(); ++s) {
        if (scan.starts[s] == scan.starts[s + 1]) continue;
        const at::Tensor g = at::log_sigmoid(scan.part(scan.in.k, s)) / 16, v = scan.part(scan.in.v, s);
        at::Tensor state = scan.states.narrow(0, static_cast<int64_t>(s), 1).to(at::kDouble);
        std::vector<at::Tensor> y;
        for (int64_t t = 0; t < v.size(1); ++t) {
          state = at::exp(g.select(1, t)).unsqueeze(-1) * state -
                  at::expm1(g.select(1, t)).unsqueeze(-1) * v.select(1, t).unsqueeze(-2);
          const at::Tensor x = scan.part(scan.d_o, s).select(1, t).reshape({1, 2, 2, 64});
          y.push_back(at::matmul(x, state.transpose(-1, -2)).view({1, 4, 64}));
        }
        testing::expect_close(scan.part(got.o, s), at::stack(y, 1), tolerance, "y");
        testing::expect_close(got.state.narrow(0, static_cast<int64_t>(s), 1), state, tolerance, "state");
      }
    }
}

class DiagonalScanKernel : public ::testing::TestWithParam<std::tuple<Type, Shape>> {};

TEST_P(DiagonalScanKernel, EqualsTheDefinition) {
  const auto& [type, shape] = GetParam();
  for (const double strength : {1.0 / 16, 30.0}) {  // some of e^-100
    SCOPED_TRACE(strength);
    const Scan scan(shape, type, strength);
    const Expected expected = definition(scan);
    std::vector<Parts> all = {{}};
    if (type != Type::kHalf) all.push_back({3, true});
    if (type == Type::kBFloat16) all.push_back({3, false});
    for (const Parts& parts : all) {
      SCOPED_TRACE(std::to_string(parts.count) + (parts.side_by_side ? " side by side" : ""));
      OnDevice device(scan, type, {}, parts);
      expect_equal(device, expected, type, shape.K == shape.V);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DiagonalScanKernel,
                         ::testing::Combine(::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf),
                                            ::testing::Values(Shape{{1}, 1, 1, 64, 64}, Shape{{63}, 2, 2, 64, 64},
                                                              Shape{{65}, 4, 1, 64, 64}, Shape{{257}, 1, 1, 64, 64},
                                                              Shape{{33}, 2, 1, 128, 128}, Shape{{257}, 1, 1, 128, 128},
                                                              Shape{{65}, 1, 1, 256, 256}, Shape{{17}, 3, 1, 64, 128},
                                                              Shape{{18}, 2, 1, 256, 256}, Shape{{17}, 8, 2, 128, 256},
                                                              Shape{{20, 1, 0, 35, 16}, 2, 1, 64, 64})));

// d_g sums over a whole part: the longest that is planned, of text that is hardly forgotten.
TEST(DiagonalScanKernel, LongPartsKeepTheirDigits) {
  const Scan scan({{4096}, 1, 1, 64, 64}, Type::kBFloat16, 1.0 / 256);
  OnDevice device(scan, Type::kBFloat16, {}, {});
  expect_equal(device, definition(scan), Type::kBFloat16, true);
}

// Raw projections: every structure that is one diagonal scan, with what core/structure.h says of it.
class RawDiagonalScanKernel : public ::testing::TestWithParam<std::tuple<Type, const char*>> {};

TEST_P(RawDiagonalScanKernel, EqualsTheDefinition) {
  const auto& [type, name] = GetParam();
  for (const Shape& shape : {Shape{{40}, 4, 2, 64, 64}, Shape{{17}, 1, 1, 128, 128}}) {
    if (type != Type::kFloat && shape.K == 128) continue;
    const LayerRecurrence layer = {.structure = find_structure(name), .layer = 1, .layers = 4};
    const Scan scan(shape, type, 1);
    const kernels::Features features = kernel_features(layer, shape.Hkv, kKernelDevice);
    const auto run = [&](const std::vector<at::Tensor>& x) {
      const RecurrenceOutputs out = recurrence(layer, {x[0], x[1], x[2], {x[4]}});
      return ScanOutputs{out.o, out.states[0]};
    };
    OnDevice device(scan, type, features, {});
    device.read_before_decay(layer.structure->reads_before_decay);
    expect_equal(device, by_definition(scan, run, false), type, true);
  }
}

INSTANTIATE_TEST_SUITE_P(Structures, RawDiagonalScanKernel,
                         ::testing::Combine(::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf),
                                            ::testing::Values("gla", "hgrn2", "rwkv6", "gated-retention", "mamba2",
                                                              "retnet", "lightning", "linear")));

TEST(DiagonalScanKernelThreads, OrderChangesNothing) {
  const Scan scan({{40, 9}, 4, 2, 64, 64}, Type::kBFloat16, 1.0);
  for (const bool raw : {false, true})
    for (const bool side_by_side : {false, true}) {
      const auto run = [&](unsigned order) {
        cuda_on_host::thread_order = order;
        const auto features = raw ? kernel_features({.structure = find_structure("gated-retention")}, 2, kKernelDevice)
                                  : kernels::Features{};
        OnDevice device(scan, Type::kBFloat16, features, {2, side_by_side});
        const ScanOutputs out = device.forward();
        std::vector<at::Tensor> all = device.backward();
        cuda_on_host::thread_order = 0;
        all.insert(all.end(), {out.o, out.state});
        return all;
      };
      const auto first = run(0);
      for (const unsigned order : {1u, 2u, 3u}) {
        const auto other = run(order);
        for (size_t i = 0; i < first.size(); ++i)
          EXPECT_TRUE(other[i].equal(first[i])) << "order " << order << ", output " << i << ", raw " << raw;
      }
    }
}

kernels::DiagonalScan sizes(int64_t H, int64_t Hkv, int64_t K, int64_t V) {
  kernels::DiagonalScan scan = {};
  scan.H = H;
  scan.Hkv = Hkv;
  scan.K = K;
  scan.V = V;
  return scan;
}
TEST(DiagonalScanKernel, SaysWhatItCannotRun) {
  kernels::DiagonalScanForward forward = {};
  forward.scan.K = 48;
  EXPECT_STREQ(kernels::diagonal_scan_fwd(forward, nullptr), "the size of a key must be 64, 128 or 256");
  forward.scan = sizes(3, 2, 64, 40);
  EXPECT_STREQ(kernels::diagonal_scan_fwd(forward, nullptr), "query heads must be a multiple of key/value heads");
  forward.scan.H = 4;
  EXPECT_STREQ(kernels::diagonal_scan_fwd(forward, nullptr),
               "with keys of 64 the size of a value must be a multiple of 64");
  forward.scan = sizes(4, 2, 64, 64);
  forward.states_are_there = true;
  EXPECT_STREQ(kernels::diagonal_scan_fwd(forward, nullptr), "only parts side by side keep the states before them");
  kernels::DiagonalScanBackward backward = {};
  backward.scan = sizes(4, 2, 64, 128);
  EXPECT_STREQ(kernels::diagonal_scan_bwd(backward, nullptr), "backward, keys and values must be of one size");
}

// A device is filled where there are few states, and long sequences are cut where not.
TEST(DiagonalScanKernel, PlansItsParts) {
  const auto plan = [](int64_t sequences, int64_t heads, int64_t longest, int64_t tokens) {
    kernels::DiagonalScan scan = {};
    scan.sequences = sequences;
    scan.N = tokens;
    scan.Hkv = heads;
    scan.K = 128;
    kernels::plan_parts(scan, longest, 132);
    return std::pair(scan.parts, scan.side_by_side);
  };
  EXPECT_EQ(plan(8, 32, 2048, 8 * 2048), std::pair(int64_t{2}, false));
  EXPECT_EQ(plan(1, 32, 32768, 32768), std::pair(int64_t{9}, true));
  EXPECT_EQ(plan(1, 8, 512, 512), std::pair(int64_t{4}, true));
  EXPECT_EQ(plan(1, 8, 100, 100), std::pair(int64_t{1}, false));
  EXPECT_EQ(plan(0, 8, 0, 0), std::pair(int64_t{1}, false));
  EXPECT_EQ(plan(256, 8, 32768, 65536), std::pair(int64_t{2}, false));
}

}  // namespace
}  // namespace liger
