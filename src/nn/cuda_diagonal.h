#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <utility>
#include <vector>

#include "device.h"
#include "diagonal_scan.h"
#include "nn/cuda_calls.h"
#include "nn/cuda_recurrence.h"

namespace liger {

inline at::Tensor empty_floats(const at::Tensor& like, std::vector<int64_t> shape) {
  return at::empty(shape, like.options().dtype(at::kFloat));
}

/// One diagonal scan over contiguous q [N, H, K], k [N, Hkv, K], v [N, Hkv, V], state [S, Hkv, K, V].
struct Diagonal {
  /// `serial`: its parts may not run side by side. `g` [N, Hkv, K] float32: log-decays of features that are there
  /// already; undefined: `features` makes both.
  Diagonal(at::Tensor q_, at::Tensor k_, at::Tensor v_, at::Tensor state_, const KernelTokens& tokens,
           const kernels::Features& features, bool serial = false, at::Tensor g_ = {})
      : q(std::move(q_)), k(std::move(k_)), v(std::move(v_)), state(state_.contiguous()), g(std::move(g_)) {
    scan.type = kernel_type(k.scalar_type());
    scan.N = tokens.N;
    scan.sequences = tokens.sequences;
    scan.H = q.size(1);
    scan.Hkv = k.size(1);
    scan.K = k.size(2);
    scan.V = v.size(2);
    scan.T = tokens.longest;
    scan.starts = tokens.starts_data();
    scan.q = q.const_data_ptr();
    scan.k = k.const_data_ptr();
    scan.v = v.const_data_ptr();
    if (g.defined()) scan.g = g.const_data_ptr<float>();
    scan.features = features;
    kernels::plan_parts(scan, tokens.longest, serial ? 0 : kernels::multiprocessors());
    if (!scan.side_by_side) return;
    states = empty_floats(k, {scan.sequences, scan.parts, scan.Hkv, scan.K, scan.V});
    decays = empty_floats(k, {scan.sequences, scan.parts, scan.Hkv, scan.K});
  }

  /// o [N, H, V]; `last` becomes the state after the last tokens.
  at::Tensor columns(at::Tensor& last) {
    last = at::empty_like(state);
    return columns(last.mutable_data_ptr<float>(), false);
  }
  /// The same after a pass over the same keys, values and decays, whose states of parts these are.
  at::Tensor columns_again() { return columns(nullptr, scan.side_by_side); }
  /// S_t x_t: [N, H, K] float32 of x [N, H, V].
  at::Tensor rows(const at::Tensor& x, at::Tensor& last) {
    const at::Tensor y = empty_floats(k, {scan.N, scan.H, scan.K});
    last = at::empty_like(state);
    check_kernel(kernels::diagonal_scan_rows(
                     {scan, x.const_data_ptr(), state.const_data_ptr<float>(), last.mutable_data_ptr<float>(),
                      of_parts(), decays_data(), y.mutable_data_ptr<float>()},
                     kernel_stream(k)),
                 k);
    return y;
  }

  struct Gradients {
    at::Tensor q, k, v, state, g;
  };
  /// `last` as columns() or rows() left it; d_last may be undefined: zeros.
  Gradients backward(const at::Tensor& d_o, const at::Tensor& last, const at::Tensor& d_last,
                     bool wants_values = true) {
    Gradients out = {at::empty_like(q), at::empty_like(k), wants_values ? at::empty_like(v) : at::Tensor(),
                     at::empty_like(state), g.defined() ? at::empty_like(g) : at::Tensor()};
    const at::Tensor d_state_out = d_last.defined() ? d_last.contiguous() : d_last;
    kernels::DiagonalScanBackward args = {};
    args.scan = scan;
    args.d_o = d_o.const_data_ptr();
    args.d_state_out = d_state_out.defined() ? d_state_out.const_data_ptr<float>() : nullptr;
    args.state_out = last.const_data_ptr<float>();
    args.states = of_parts();
    args.state_in = state.const_data_ptr<float>();
    args.d_q = out.q.mutable_data_ptr();
    args.d_k = out.k.mutable_data_ptr();
    args.d_v = wants_values ? out.v.mutable_data_ptr() : nullptr;
    args.d_g = g.defined() ? out.g.mutable_data_ptr<float>() : nullptr;
    args.d_state_in = out.state.mutable_data_ptr<float>();
    const at::Tensor workspace = at::empty({kernels::diagonal_scan_bwd_workspace(args)}, k.options().dtype(at::kByte));
    args.workspace = workspace.mutable_data_ptr();
    check_kernel(kernels::diagonal_scan_bwd(args, kernel_stream(k)), k);
    return out;
  }

  at::Tensor q, k, v, state, g, states, decays;
  kernels::DiagonalScan scan = {};

 private:
  at::Tensor columns(float* last, bool states_are_there) {
    const at::Tensor o = at::empty({scan.N, scan.H, scan.V}, k.options());
    check_kernel(kernels::diagonal_scan_fwd({scan, state.const_data_ptr<float>(), last, of_parts(), decays_data(),
                                             o.mutable_data_ptr(), states_are_there},
                                            kernel_stream(k)),
                 k);
    return o;
  }
  float* of_parts() { return states.defined() ? states.mutable_data_ptr<float>() : nullptr; }
  float* decays_data() { return decays.defined() ? decays.mutable_data_ptr<float>() : nullptr; }
};

}  // namespace liger
