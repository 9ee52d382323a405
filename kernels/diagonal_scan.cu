// The diagonal scan, forward and backward, as a sequence of passes.

#include "diagonal_pass.cuh"

namespace liger::kernels {
namespace {

struct Combine {
  DiagonalScan scan;
  const float* first;
  float* states;
  const float* decays;
  float* last;
};
// From what each part adds, the state before each (forward) or after each (backward), and the one at the end.
template <bool kForward>
__global__ void __launch_bounds__(256) combine_parts(const Combine c) {
  const DiagonalScan& p = c.scan;
  const int64_t size = p.K * p.V, head = blockIdx.y, sequence = blockIdx.z;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (at >= size) return;
  float state = c.first ? c.first[(sequence * p.Hkv + head) * size + at] : 0;
  for (int64_t i = 0; i < p.parts; ++i) {
    const int64_t index = (sequence * p.parts + (kForward ? i : p.parts - 1 - i)) * p.Hkv + head;
    const float added = c.states[index * size + at];
    c.states[index * size + at] = state;
    state = c.decays[index * p.K + at / p.V] * state + added;
  }
  if (c.last) c.last[(sequence * p.Hkv + head) * size + at] = state;
}
template <bool kForward>
const char* combine(const DiagonalPass& pass, void* stream) {
  const DiagonalScan& p = pass.scan;
  const dim3 grid(static_cast<unsigned>((p.K * p.V + 255) / 256), static_cast<unsigned>(p.Hkv),
                  static_cast<unsigned>(p.sequences));
  return launch("diagonal scan, states of parts", combine_parts<kForward>, grid, 256, 0, stream,
                Combine{p, pass.state_first, pass.states, pass.decays, pass.state_last});
}

// Where parts run side by side: what each adds, then the states they begin with.
template <bool kForward>
const char* make_states(const DiagonalPass& pass, void* stream) {
  if (!pass.scan.side_by_side) return nullptr;
  const char* problem = kForward ? diagonal_parts_forward(pass, stream) : diagonal_parts_backward(pass, stream);
  return problem ? problem : combine<kForward>(pass, stream);
}

struct Finish {
  Features features;
  int64_t rows;
  const void* x;     // [rows, K] raw, or features where those are not made by the kernels
  const float* d;    // [rows, K], of the features
  const float* d_g;  // the same of a key's log-decays; nullptr: none
  void* out;
  bool is_key;
};
// From gradients of features and log-decays those of raw rows; a warp has one.
template <typename E, int K>
__global__ void __launch_bounds__(256) finish_rows(const Finish f) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (row >= f.rows) return;
  const int64_t at = row * K + lane();
  float d[K / 32];
  LIGER_UNROLL
  for (int c = 0; c < K / 32; ++c) d[c] = f.d[at + 32 * c];
  if (f.features.raw) {
    const E* raw = static_cast<const E*>(f.x) + at;
    float x[K / 32], slope[K / 32], d_g[K / 32];
    LIGER_UNROLL
    for (int c = 0; c < K / 32; ++c) x[c] = to_float(raw[32 * c]);
    const bool gated = f.is_key && f.d_g && f.features.gate != Gate::kConstant;
    if (gated) {
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) d_g[c] = f.d_g[at + 32 * c];
      if (f.features.key == Map::kForgotten)
        LIGER_UNROLL
        for (int c = 0; c < K / 32; ++c) d_g[c] -= expf(log_decay(f.features, x[c], 0)) * d[c];
      if (!f.features.per_channel) {
        const float mean = sum_of_row(x) / K, total = sum_of_row(d_g) / K;
        LIGER_UNROLL
        for (int c = 0; c < K / 32; ++c) slope[c] = log_decay_slope(f.features, mean), d_g[c] = total;
      } else {
        LIGER_UNROLL
        for (int c = 0; c < K / 32; ++c) slope[c] = log_decay_slope(f.features, x[c]);
      }
    }
    feature_gradient(f.is_key ? f.features.key : f.features.query, x, d);
    if (gated)
      LIGER_UNROLL
      for (int c = 0; c < K / 32; ++c) d[c] += slope[c] * d_g[c];
  }
  LIGER_UNROLL
  for (int c = 0; c < K / 32; ++c) round_to(d[c], static_cast<E*>(f.out)[at + 32 * c]);
}
const char* finish(const DiagonalScan& scan, const Finish& f, void* stream) {
  if (f.rows == 0) return nullptr;
  return for_type_and_size(scan.type, scan.K, [&](auto element, auto size) {
    return launch("diagonal scan backward, features", finish_rows<decltype(element), decltype(size)::value>,
                  dim3(static_cast<unsigned>((f.rows + 7) / 8)), 256, 0, stream, f);
  });
}

const char* refuses(const DiagonalScan& p) {
  if (p.K != 64 && p.K != 128 && p.K != 256) return "the size of a key must be 64, 128 or 256";
  if (p.Hkv < 1 || p.H % p.Hkv != 0) return "query heads must be a multiple of key/value heads";
  const Features& f = p.features;
  if (f.raw && f.key == Map::kForgotten && !f.per_channel) return "keys of what was forgotten need a gate per channel";
  if (p.parts < 1) return "a sequence has at least one part";
  if (p.H > 65535 || p.sequences * (p.side_by_side ? p.parts : 1) > 65535)
    return "at most 65535 query heads, and sequences or their parts side by side";
  return nullptr;
}

// A backward pass's workspace, in floats.
struct Workspace {
  int64_t d_q, d_k, d_g;
  int64_t states;  ///< parts side by side: the gradient after each; else the state before each, if there are several
  int64_t decays, size;
  explicit Workspace(const DiagonalScan& p) {
    const int64_t parts = p.parts > 1 || p.side_by_side ? p.sequences * p.parts : 0;
    int64_t used = 0;
    const auto take = [&](int64_t floats) {
      const int64_t at = used;
      used += (floats + 31) / 32 * 32;
      return at;
    };
    d_q = take(p.N * p.H * p.K);
    d_k = take(p.N * p.Hkv * p.K);
    d_g = take(p.features.raw ? p.N * p.Hkv * p.K : 0);
    states = take(parts * p.Hkv * p.K * p.V);
    decays = take(parts * p.Hkv * p.K);
    size = used;
  }
};

}  // namespace

void plan_parts(DiagonalScan& scan, int64_t longest, int multiprocessors) {
  // A part's sum of d_g loses digits with its length; and each costs a state.
  constexpr int64_t kLongest = 1024, kLongestSideBySide = 4096, kShortest = 128;
  const int64_t blocks = scan.sequences * scan.Hkv * (scan.K == 256 ? 2 : 1);
  const auto ceil = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  scan.side_by_side = blocks > 0 && 2 * blocks <= multiprocessors && longest >= 2 * kShortest;
  scan.parts = ceil(longest, scan.side_by_side ? kLongestSideBySide : kLongest);
  if (scan.side_by_side) {
    const int64_t enough = ceil(2 * multiprocessors, blocks), most = ceil(longest, kShortest);
    const int64_t wanted = enough < most ? enough : most;
    if (scan.parts < wanted) scan.parts = wanted;
  }
  // All sequences have as many parts, so that a long one among many short ones gets fewer.
  const int64_t bearable = scan.sequences > 0 ? 1 + 4 * ceil(scan.N, kLongest) / scan.sequences : 1;
  if (!scan.side_by_side && scan.parts > bearable) scan.parts = bearable;
  if (scan.parts < 1) scan.parts = 1;
}

const char* diagonal_scan_fwd_refuses(const DiagonalScanForward& args) {
  const DiagonalScan& p = args.scan;
  if (const char* reason = refuses(p)) return reason;
  const int64_t columns = p.K == 64 ? 64 : 128;
  if (p.V < 1 || p.V % columns != 0)
    return p.K == 64 ? "with keys of 64 the size of a value must be a multiple of 64"
                     : "with keys of 128 or 256 the size of a value must be a multiple of 128";
  if (args.states_are_there && !p.side_by_side) return "only parts side by side keep the states before them";
  return nullptr;
}

const char* diagonal_scan_fwd(const DiagonalScanForward& args, void* stream) {
  if (const char* reason = diagonal_scan_fwd_refuses(args)) return reason;
  if (args.scan.sequences == 0) return nullptr;
  DiagonalPass pass = {};
  pass.scan = args.scan;
  pass.state_first = args.state_in;
  pass.state_last = args.state_out;
  pass.states = args.states;
  pass.decays = args.decays;
  pass.columns = args.o;
  if (!args.states_are_there)
    if (const char* problem = make_states<true>(pass, stream)) return problem;
  return diagonal_columns_forward(pass, stream);
}

const char* diagonal_scan_rows_refuses(const DiagonalScanRows& args) {
  if (const char* reason = refuses(args.scan)) return reason;
  if (args.scan.V != args.scan.K) return "to read rows, keys and values must be of one size";
  return nullptr;
}

const char* diagonal_scan_rows(const DiagonalScanRows& args, void* stream) {
  if (const char* reason = diagonal_scan_rows_refuses(args)) return reason;
  if (args.scan.sequences == 0) return nullptr;
  DiagonalPass pass = {};
  pass.scan = args.scan;
  pass.d_o = args.x;
  pass.state_first = args.state_in;
  pass.state_last = args.state_out;
  pass.states = args.states;
  pass.decays = args.decays;
  pass.rows = args.y;
  if (const char* problem = make_states<true>(pass, stream)) return problem;
  return diagonal_rows_forward(pass, stream);
}

const char* diagonal_scan_bwd_refuses(const DiagonalScanBackward& args) {
  if (const char* reason = refuses(args.scan)) return reason;
  if (args.scan.V != args.scan.K) return "backward, keys and values must be of one size";
  return nullptr;
}

int64_t diagonal_scan_bwd_workspace(const DiagonalScanBackward& args) {
  return Workspace(args.scan).size * static_cast<int64_t>(sizeof(float));
}

const char* diagonal_scan_bwd(const DiagonalScanBackward& args, void* stream) {
  if (const char* reason = diagonal_scan_bwd_refuses(args)) return reason;
  const DiagonalScan& p = args.scan;
  if (p.sequences == 0) return nullptr;
  const Workspace at(p);
  float* const space = static_cast<float*>(args.workspace);
  const bool raw = p.features.raw;
  float* const d_g = !raw ? args.d_g : p.features.gate == Gate::kConstant ? nullptr : space + at.d_g;

  DiagonalPass forward = {};
  forward.scan = p;
  forward.d_o = args.d_o;
  forward.state_first = args.state_in;
  float* const of_parts = space + at.states;
  forward.states = p.side_by_side ? const_cast<float*>(args.states) : p.parts > 1 ? of_parts : nullptr;
  forward.rows = space + at.d_q;
  forward.d_g = d_g;
  if (const char* problem = diagonal_rows_forward(forward, stream)) return problem;

  DiagonalPass backward = {};
  backward.scan = p;
  backward.d_o = args.d_o;
  backward.state_first = args.d_state_out;
  backward.state_last = args.d_state_in;
  backward.states = p.side_by_side ? of_parts : nullptr;
  backward.decays = space + at.decays;
  if (const char* problem = make_states<false>(backward, stream)) return problem;
  backward.rows = space + at.d_k;
  backward.d_g = d_g;
  backward.before = forward.states;
  backward.state_end = args.state_out;
  if (const char* problem = diagonal_rows_backward(backward, stream)) return problem;
  if (args.d_v) {
    backward.state_last = nullptr;
    backward.columns = args.d_v;
    if (const char* problem = diagonal_columns_backward(backward, stream)) return problem;
  }

  const Finish queries = {p.features, p.N * p.H, p.q, space + at.d_q, nullptr, args.d_q, false};
  if (const char* problem = finish(p, queries, stream)) return problem;
  return finish(p, {p.features, p.N * p.Hkv, p.k, space + at.d_k, d_g, args.d_k, true}, stream);
}

}  // namespace liger::kernels
