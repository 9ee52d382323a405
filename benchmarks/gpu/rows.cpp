// What is measured, a row each. A kernel that is new here takes a function that makes its inputs, and its rows.

#include "rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include "decode_choices.h"
#include "decode_step.h"
#include "delta_scan.h"
#include "diagonal_scan.h"
#include "window_attention.h"

namespace liger::benchmarks {

namespace {

at::TensorOptions bfloat16() { return at::TensorOptions(at::kBFloat16).device(at::kCUDA); }
at::TensorOptions float32() { return at::TensorOptions(at::kFloat).device(at::kCUDA); }

double bytes_of(const std::vector<at::Tensor>& tensors) {
  double out = 0;
  for (const at::Tensor& x : tensors)
    if (x.defined()) out += static_cast<double>(x.nbytes());
  return out;
}

// Each query head reads a state of D^2, each key/value head writes one; within a chunk of 16 tokens scores and their
// products with the values.
double flops_of_scan(const Sizes& s) {
  const double tokens = static_cast<double>(s.B * s.T), D = static_cast<double>(s.D);
  return tokens * (static_cast<double>(s.H) * (2 * D * D + 2 * 2 * 16 * D) + static_cast<double>(s.Hkv) * 2 * D * D);
}

kernels::Features gla() {
  return {.raw = true,
          .query = kernels::Map::kSoftmax,
          .key = kernels::Map::kSoftmax,
          .gate = kernels::Gate::kLogSigmoid,
          .per_channel = true,
          .divisor = 16};
}

// A diagonal scan and its tensors.
struct Diagonal {
  at::Tensor q, k, v, g, o, state, states, decays;
  kernels::DiagonalScan scan = {};

  Diagonal(const Sizes& s, bool raw) {
    const int64_t N = s.B * s.T;
    q = at::randn({N, s.H, s.D}, bfloat16());
    k = at::randn({N, s.Hkv, s.D}, bfloat16());
    v = at::randn({N, s.Hkv, s.D}, bfloat16());
    if (!raw) {
      q = at::softmax(q, -1);
      k = at::softmax(k, -1);
      g = at::log_sigmoid(at::randn({N, s.Hkv, s.D}, float32())) / 16;
      scan.g = g.const_data_ptr<float>();
    }
    scan.type = kernels::Type::kBFloat16;
    scan.N = N;
    scan.sequences = s.B;
    scan.T = s.T;
    scan.H = s.H;
    scan.Hkv = s.Hkv;
    scan.K = scan.V = s.D;
    scan.q = q.const_data_ptr();
    scan.k = k.const_data_ptr();
    scan.v = v.const_data_ptr();
    if (raw) scan.features = gla();
    kernels::plan_parts(scan, s.T, kernels::multiprocessors());
    o = at::empty_like(q);
    state = at::empty({s.B, s.Hkv, s.D, s.D}, float32());
    states = at::empty({s.B, scan.parts, s.Hkv, s.D, s.D}, float32());
    decays = at::empty({s.B, scan.parts, s.Hkv, s.D}, float32());
  }
  std::vector<at::Tensor> all() const { return {q, k, v, g, o, state, states, decays}; }
  kernels::DiagonalScanForward forward() const {
    return {.scan = scan,
            .state_in = nullptr,
            .state_out = state.mutable_data_ptr<float>(),
            .states = states.mutable_data_ptr<float>(),
            .decays = decays.mutable_data_ptr<float>(),
            .o = o.mutable_data_ptr()};
  }
};

Case diagonal_forward(const Sizes& s, bool raw) {
  const Diagonal x(s, raw);
  return {.bytes = bytes_of({x.q, x.k, x.v, x.g, x.o, x.state}),
          .flops = flops_of_scan(s),
          .launch = [args = x.forward()] { return kernels::diagonal_scan_fwd(args, nullptr); },
          .kept = x.all(),
          .outputs = {x.o, x.state}};
}
// Features and gates are given, the gates in float32.
Case diagonal_scan_fwd(const Sizes& s) { return diagonal_forward(s, false); }
// GLA from the projections themselves.
Case diagonal_scan_fwd_raw(const Sizes& s) { return diagonal_forward(s, true); }

Case diagonal_forward_backward(const Sizes& s, bool raw) {
  const Diagonal x(s, raw);
  const at::Tensor d_o = at::randn_like(x.q), d_q = at::empty_like(x.q), d_k = at::empty_like(x.k);
  const at::Tensor d_v = at::empty_like(x.v), d_g = raw ? at::Tensor() : at::empty_like(x.g);
  kernels::DiagonalScanBackward args = {};
  args.scan = x.scan;
  args.d_o = d_o.const_data_ptr();
  args.states = x.states.const_data_ptr<float>();
  args.d_q = d_q.mutable_data_ptr();
  args.d_k = d_k.mutable_data_ptr();
  args.d_v = d_v.mutable_data_ptr();
  args.d_g = raw ? nullptr : d_g.mutable_data_ptr<float>();
  const at::Tensor workspace = at::empty({kernels::diagonal_scan_bwd_workspace(args)}, bfloat16().dtype(at::kByte));
  args.workspace = workspace.mutable_data_ptr();
  std::vector<at::Tensor> kept = x.all();
  kept.insert(kept.end(), {d_o, workspace});
  // Per query head S d_o and what q d_o^T adds to the state's gradient, per key/value head the state again and its
  // gradient read by keys and by values; five products of a chunk of 16.
  const double tokens = static_cast<double>(s.B * s.T), D = static_cast<double>(s.D);
  const double backward =
      tokens * (static_cast<double>(s.H) * (4 * D * D + 5 * 2 * 16 * D) + static_cast<double>(s.Hkv) * 6 * D * D);
  return {.bytes = bytes_of({x.q, x.k, x.v, x.g, x.o}) + bytes_of({x.q, x.k, x.v, x.g, d_o, d_q, d_k, d_v, d_g}),
          .flops = flops_of_scan(s) + backward,
          .launch =
              [args, forward = x.forward()] {
                const char* problem = kernels::diagonal_scan_fwd(forward, nullptr);
                return problem ? problem : kernels::diagonal_scan_bwd(args, nullptr);
              },
          .kept = kept,
          .outputs = raw ? std::vector<at::Tensor>{d_q, d_k, d_v} : std::vector<at::Tensor>{d_q, d_k, d_v, d_g}};
}
Case diagonal_scan_both(const Sizes& s) { return diagonal_forward_backward(s, false); }
Case diagonal_scan_both_raw(const Sizes& s) { return diagonal_forward_backward(s, true); }

// Gated DeltaNet from the projections themselves.
Case delta_scan_fwd_raw(const Sizes& s) {
  const int64_t N = s.B * s.T;
  const at::Tensor q = at::randn({N, s.H, s.D}, bfloat16()), k = at::randn({N, s.Hkv, s.D}, bfloat16());
  const at::Tensor v = at::randn_like(k), o = at::empty_like(q);
  const at::Tensor state = at::empty({s.B, s.Hkv, s.D, s.D}, float32());
  kernels::DeltaScanForward args = {};
  args.type = kernels::Type::kBFloat16;
  args.sequences = s.B;
  args.T = s.T;
  args.H = s.H;
  args.Hkv = s.Hkv;
  args.K = args.V = s.D;
  args.q = q.const_data_ptr();
  args.k = k.const_data_ptr();
  args.v = v.const_data_ptr();
  args.features = {.raw = true,
                   .query = kernels::Map::kUnit,
                   .key = kernels::Map::kUnit,
                   .gate = kernels::Gate::kLogSigmoid,
                   .divisor = 16};
  args.state_out = state.mutable_data_ptr<float>();
  args.o = o.mutable_data_ptr();
  // The state is read by the keys too; a chunk's keys meet each other, and its equations are solved.
  const double tokens = static_cast<double>(N), D = static_cast<double>(s.D);
  const double rule = tokens * static_cast<double>(s.Hkv) * (2 * D * D + 2 * 2 * 16 * D);
  return {.bytes = bytes_of({q, k, v, o, state}),
          .flops = flops_of_scan(s) + rule,
          .launch = [args] { return kernels::delta_scan_fwd(args, nullptr); },
          .kept = {q, k, v},
          .outputs = {o, state}};
}

constexpr int64_t kWindow = 64;

Case window_attention_fwd(const Sizes& s) {
  const int64_t N = s.B * s.T;
  const at::Tensor q = at::randn({N, s.H, s.D}, bfloat16()), k = at::randn({N, s.Hkv, s.D}, bfloat16());
  const at::Tensor v = at::randn_like(k), o = at::empty_like(q);
  const at::Tensor angles = at::randn({N, s.D / 2}, float32()), cos = at::cos(angles), sin = at::sin(angles);
  kernels::WindowAttentionForward args = {};
  args.type = kernels::Type::kBFloat16;
  args.sequences = s.B;
  args.H = s.H;
  args.Hkv = s.Hkv;
  args.D = s.D;
  args.N = N;
  args.window = kWindow;
  args.q = q.const_data_ptr();
  args.k = k.const_data_ptr();
  args.v = v.const_data_ptr();
  args.cos = cos.const_data_ptr<float>();
  args.sin = sin.const_data_ptr<float>();
  args.share = 1;
  args.o = o.mutable_data_ptr();
  return {.bytes = bytes_of({q, k, v, cos, sin, o}),
          .flops = 2.0 * 2 * static_cast<double>(N * s.H * s.D * kWindow),
          .launch = [args] { return kernels::window_attention_fwd(args, nullptr); },
          .kept = {q, k, v, cos, sin},
          .outputs = {o}};
}

// A step of B sequences (T is 1) that have read more than a window.
struct Decoding {
  explicit Decoding(const Sizes& s)
      : q(at::randn({s.B, s.H, s.D}, bfloat16())),
        k(at::randn({s.B, s.Hkv, s.D}, bfloat16())),
        v(at::randn_like(k)),
        o(at::empty_like(q)),
        keys(at::randn({s.B, s.Hkv, kWindow, s.D}, float32())),
        values(at::randn_like(keys)),
        cos(at::cos(at::randn({s.B, s.D / 2}, float32()))),
        sin(at::randn_like(cos)),
        seen(at::full({s.B}, 1000, float32().dtype(at::kLong))) {}

  template <typename Arguments>
  Arguments arguments(const Sizes& s) const {
    Arguments args = {};
    args.type = kernels::Type::kBFloat16;
    args.sequences = s.B;
    args.H = s.H;
    args.Hkv = s.Hkv;
    args.D = s.D;
    args.q = q.const_data_ptr();
    args.k = k.const_data_ptr();
    args.v = v.const_data_ptr();
    args.o = o.mutable_data_ptr();
    args.features = gla();
    args.window = kWindow;
    args.share = 0.5;
    args.cos = cos.const_data_ptr<float>();
    args.sin = sin.const_data_ptr<float>();
    args.ring_keys = keys.mutable_data_ptr<float>();
    args.ring_values = values.mutable_data_ptr<float>();
    args.seen = seen.const_data_ptr<int64_t>();
    return args;
  }
  // With a state of `numbers` a key/value head, read and written.
  Case of(const Sizes& s, const at::Tensor& state, std::function<const char*()> launch,
          std::vector<at::Tensor> more = {}) const {
    const double heads = static_cast<double>(s.B * s.H), D = static_cast<double>(s.D);
    const double numbers = static_cast<double>(state.numel());
    more.insert(more.end(), {q, k, v, keys, values, cos, sin, seen});
    return {.bytes = bytes_of({q, k, v, o, state, state, keys, values, cos, sin}),
            .flops = 2 * numbers * static_cast<double>(1 + s.H / s.Hkv) + heads * 2 * 2 * D * kWindow,
            .launch = std::move(launch),
            .kept = std::move(more),
            .outputs = {o, state}};
  }

  at::Tensor q, k, v, o, keys, values, cos, sin, seen;
};

Case decode_step(const Sizes& s) {
  const Decoding token(s);
  const at::Tensor state = at::randn({s.B, s.Hkv, s.D, s.D}, float32());
  auto args = token.arguments<kernels::DecodeStep>(s);
  args.states[0] = state.mutable_data_ptr<float>();
  return token.of(s, state, [args] { return kernels::decode_step(args, nullptr); });
}

// The recommended mixer: two features a channel, one softmax with the window, the state beyond it.
Case decode_choices(const Sizes& s) {
  const Decoding token(s);
  const at::Tensor state = at::rand({s.B, s.Hkv, 2 * s.D, s.D + 1}, float32());
  const at::Tensor scalars = at::zeros({5, s.H}, float32()), raw_keys = at::randn_like(token.keys);
  auto args = token.arguments<kernels::DecodeChoices>(s);
  args.state = state.mutable_data_ptr<float>();
  args.features.per_channel = false;
  args.two_features = kernels::TwoFeatures::kExp;
  args.divisor = kernels::Divisor::kShared;
  args.rotates_features = args.beyond_window = true;
  args.scalars = scalars.const_data_ptr<float>();
  args.ring_raw_keys = raw_keys.mutable_data_ptr<float>();
  return token.of(s, state, [args] { return kernels::decode_choices(args, nullptr); }, {scalars, raw_keys});
}

}  // namespace

const std::vector<Row>& rows() {
  static const std::vector<Row> all = {
      {"diagonal_scan_fwd", {8, 2048, 32, 32, 128}, diagonal_scan_fwd, "chunk_gla forward"},
      {"diagonal_scan_fwd", {1, 32768, 32, 32, 128}, diagonal_scan_fwd, "chunk_gla forward"},
      {"diagonal_scan_fwd raw", {8, 2048, 32, 8, 128}, diagonal_scan_fwd_raw, "chunk_gla raw forward"},
      {"diagonal_scan_fwd raw", {1, 32768, 32, 8, 128}, diagonal_scan_fwd_raw, "chunk_gla raw forward"},
      {"diagonal_scan fwd+bwd", {8, 2048, 32, 32, 128}, diagonal_scan_both, "chunk_gla forward+backward"},
      {"diagonal_scan fwd+bwd", {1, 32768, 32, 32, 128}, diagonal_scan_both, "chunk_gla forward+backward"},
      {"diagonal_scan fwd+bwd raw", {8, 2048, 32, 8, 128}, diagonal_scan_both_raw, "chunk_gla raw forward+backward"},
      {"diagonal_scan fwd+bwd raw", {1, 32768, 32, 8, 128}, diagonal_scan_both_raw, "chunk_gla raw forward+backward"},
      {"delta_scan_fwd raw", {8, 2048, 32, 32, 128}, delta_scan_fwd_raw, "chunk_gated_delta_rule forward"},
      {"delta_scan_fwd raw", {1, 32768, 32, 32, 128}, delta_scan_fwd_raw, "chunk_gated_delta_rule forward"},
      {"window_attention_fwd 64", {8, 2048, 32, 8, 128}, window_attention_fwd, nullptr},
      {"window_attention_fwd 64", {1, 32768, 32, 8, 128}, window_attention_fwd, nullptr},
      {"decode_step gla, window 64", {1, 1, 32, 8, 128}, decode_step, nullptr},
      {"decode_step gla, window 64", {32, 1, 32, 8, 128}, decode_step, nullptr},
      {"decode_step gla, window 64", {256, 1, 32, 8, 128}, decode_step, nullptr},
      {"decode_choices recommended, window 64", {1, 1, 32, 8, 128}, decode_choices, nullptr},
      {"decode_choices recommended, window 64", {32, 1, 32, 8, 128}, decode_choices, nullptr},
      {"decode_choices recommended, window 64", {256, 1, 32, 8, 128}, decode_choices, nullptr},
  };
  return all;
}

}  // namespace liger::benchmarks
