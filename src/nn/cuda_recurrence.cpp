#include "nn/cuda_recurrence.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "delta_scan.h"
#include "liger/error.h"
#include "nn/cuda_calls.h"
#include "nn/cuda_diagonal.h"

namespace liger {
namespace {

using Tensors = std::vector<at::Tensor>;

// All that both passes of a layer are given.
struct Layer {
  const LayerRecurrence& layer;
  const at::Tensor &q, &k, &v;
  const KernelTokens& tokens;
  const Tensors& states;
  kernels::Features features = kernel_features(layer, k.size(1), k.device());

  int64_t group() const { return q.size(1) / k.size(1); }
  int64_t D() const { return k.size(2); }
  Diagonal scan(const at::Tensor& of_q, const at::Tensor& of_v, const at::Tensor& state) const {
    Diagonal out(of_q, k, of_v, state, tokens, features);
    out.scan.reads_before_decay = layer.structure->reads_before_decay;
    return out;
  }
};

// States of parts as the forward pass left them.
void restore(Diagonal& scan, const at::Tensor& states) {
  if (scan.scan.side_by_side) scan.states = states;
}

CudaRecurrence plain(const Layer& in) {
  Diagonal scan = in.scan(in.q, in.v, in.states[0]);
  at::Tensor last;
  const at::Tensor o = scan.columns(last);
  return {o, {last}, {scan.states}};
}
CudaRecurrenceGradients plain_backward(const Layer& in, const CudaRecurrence& forward, const at::Tensor& d_o,
                                       const Tensors& d_states) {
  Diagonal scan = in.scan(in.q, in.v, in.states[0]);
  restore(scan, forward.saved[0]);
  const auto d = scan.backward(d_o, forward.states[0], d_states[0]);
  return {d.q, d.k, d.v, {d.state}};
}

// The sum of keys is a scan of its own, over values of one: n [.., D, 1] is each of its columns.
Diagonal scan_of_ones(const Layer& in) {
  const int64_t D = in.D();
  return in.scan(in.q, at::ones_like(in.v), in.states[0].narrow(-1, D, 1).expand({-1, -1, D, D}));
}
CudaRecurrence normalized(const Layer& in) {
  const int64_t D = in.D();
  Diagonal scan = in.scan(in.q, in.v, in.states[0].narrow(-1, 0, D)), ones = scan_of_ones(in);
  at::Tensor last, last_of_ones;
  const at::Tensor o = scan.columns(last);
  const at::Tensor n = ones.columns(last_of_ones).narrow(-1, 0, 1).to(at::kFloat);
  return {(o / n.abs().clamp_min(1)).to(o.scalar_type()),
          {at::cat({last, last_of_ones.narrow(-1, 0, 1)}, -1)},
          {scan.states, ones.states, last, last_of_ones, o, n}};
}
CudaRecurrenceGradients normalized_backward(const Layer& in, const CudaRecurrence& forward, const at::Tensor& d_o,
                                            const Tensors& d_states) {
  const int64_t D = in.D();
  const auto type = in.k.scalar_type();
  const at::Tensor &o = forward.saved[4], &n = forward.saved[5];
  const at::Tensor size = n.abs().clamp_min(1), d_size = -(d_o * o).sum(-1, true, at::kFloat) / size.square();
  // The gradient of one of the equal columns stands for all.
  const at::Tensor d_n = at::zeros_like(in.q);
  d_n.narrow(-1, 0, 1).copy_(d_size * n.sign() * (n.abs() > 1));
  at::Tensor d_last, d_last_of_ones;
  if (d_states[0].defined()) {
    d_last = d_states[0].narrow(-1, 0, D);
    d_last_of_ones = at::zeros_like(forward.saved[3]);
    d_last_of_ones.narrow(-1, 0, 1).copy_(d_states[0].narrow(-1, D, 1));
  }
  Diagonal scan = in.scan(in.q, in.v, in.states[0].narrow(-1, 0, D)), ones = scan_of_ones(in);
  restore(scan, forward.saved[0]);
  restore(ones, forward.saved[1]);
  const auto d = scan.backward((d_o / size).to(type), forward.saved[2], d_last);
  const auto d_ones = ones.backward(d_n, forward.saved[3], d_last_of_ones, /*wants_values=*/false);
  return {d.q + d_ones.q, d.k + d_ones.k, d.v, {at::cat({d.state, d_ones.state.narrow(-1, 0, 1)}, -1)}};
}

// Gated slot attention: y_t = K_t^T q_t, o_t = V_t^T softmax(y_t). The state of keys is kept turned: a row a slot.
CudaRecurrence slots(const Layer& in) {
  Diagonal keys = in.scan(in.q, in.k, in.states[0].transpose(-1, -2));
  at::Tensor last_keys, last_values;
  const at::Tensor p = at::softmax(keys.rows(in.q, last_keys), -1).to(in.q.scalar_type());
  Diagonal values = in.scan(p, in.v, in.states[1]);
  const at::Tensor o = values.columns(last_values);
  return {o, {last_keys.transpose(-1, -2), last_values}, {keys.states, values.states, last_keys, p}};
}
CudaRecurrenceGradients slots_backward(const Layer& in, const CudaRecurrence& forward, const at::Tensor& d_o,
                                       const Tensors& d_states) {
  const at::Tensor& p = forward.saved[3];
  Diagonal values = in.scan(p, in.v, in.states[1]);
  restore(values, forward.saved[1]);
  const auto d_values = values.backward(d_o, forward.states[1], d_states[1]);
  const at::Tensor d_p = d_values.q.to(at::kFloat);
  const at::Tensor d_y = (p * (d_p - (p * d_p).sum(-1, true))).to(p.scalar_type());
  Diagonal keys = in.scan(d_y, in.k, in.states[0].transpose(-1, -2));
  restore(keys, forward.saved[0]);
  const at::Tensor d_q = keys.columns_again();  // x -> S x is linear: its gradient is S^T
  const auto d_keys =
      keys.backward(in.q, forward.saved[2], d_states[0].defined() ? d_states[0].transpose(-1, -2) : at::Tensor());
  return {d_q, d_values.k + d_keys.k + d_keys.v, d_values.v, {d_keys.state.transpose(-1, -2), d_values.state}};
}

kernels::DeltaScan delta_scan(const Layer& in) {
  kernels::DeltaScan out = {};
  out.type = kernel_type(in.k.scalar_type());
  out.sequences = in.tokens.sequences;
  out.H = in.q.size(1);
  out.Hkv = in.k.size(1);
  out.K = out.V = in.D();
  out.T = in.tokens.longest;
  out.starts = in.tokens.starts_data();
  out.q = in.q.const_data_ptr();
  out.k = in.k.const_data_ptr();
  out.features = in.features;
  return out;
}
CudaRecurrence delta(const Layer& in, bool training) {
  kernels::DeltaScanForward args = {};
  static_cast<kernels::DeltaScan&>(args) = delta_scan(in);
  const at::Tensor state = in.states[0].contiguous(), last = at::empty_like(state), o = at::empty_like(in.q);
  const at::Tensor r = training ? empty_floats(in.v, in.v.sizes().vec()) : at::Tensor();
  args.v = in.v.const_data_ptr();
  args.state_in = state.const_data_ptr<float>();
  args.state_out = last.mutable_data_ptr<float>();
  args.o = o.mutable_data_ptr();
  args.r = training ? r.mutable_data_ptr<float>() : nullptr;
  check_kernel(kernels::delta_scan_fwd(args, kernel_stream(in.k)), in.k);
  return {o, {last}, {r}};
}
// Each key is one more query of its group, of what it takes away: see delta_scan.h.
at::Tensor beside_heads(const Layer& in, const at::Tensor& of_heads, const at::Tensor& of_keys) {
  const int64_t N = in.tokens.N, Hkv = in.k.size(1), G = in.group(), D = in.D();
  return at::cat({of_heads.view({N, Hkv, G, D}), of_keys.unsqueeze(2).to(of_heads.scalar_type())}, 2)
      .view({N, Hkv * (G + 1), D});
}
CudaRecurrenceGradients delta_backward(const Layer& in, const CudaRecurrence& forward, const at::Tensor& d_o,
                                       const Tensors& d_states) {
  const int64_t N = in.tokens.N, Hkv = in.k.size(1), G = in.group(), D = in.D();
  kernels::DeltaScanBackwardValues args = {};
  static_cast<kernels::DeltaScan&>(args) = delta_scan(in);
  const at::Tensor d_last = d_states[0].defined() ? d_states[0].contiguous() : at::Tensor();
  const at::Tensor d_v = at::empty_like(in.v), u = at::empty_like(forward.saved[0]), w = at::empty_like(u);
  const at::Tensor d_state = at::empty_like(forward.states[0]);
  const at::Tensor d_b = empty_floats(in.k, {D / kernels::delta_scan_columns(D), N, Hkv});
  args.N = N;
  args.d_o = d_o.const_data_ptr();
  args.r = forward.saved[0].const_data_ptr<float>();
  args.d_state_out = d_last.defined() ? d_last.const_data_ptr<float>() : nullptr;
  args.d_state_in = d_state.mutable_data_ptr<float>();
  args.d_v = d_v.mutable_data_ptr();
  args.u = u.mutable_data_ptr<float>();
  args.w = w.mutable_data_ptr<float>();
  args.d_b = d_b.mutable_data_ptr<float>();
  check_kernel(kernels::delta_scan_bwd_values(args, kernel_stream(in.k)), in.k);

  // The forward pass has left no states of parts.
  Diagonal scan(beside_heads(in, in.q, in.k), in.k, u.to(in.v.scalar_type()), in.states[0], in.tokens, in.features,
                /*serial=*/true);
  scan.scan.last_head_is_strict = true;
  const auto d = scan.backward(beside_heads(in, d_o, w), forward.states[0], d_last, /*wants_values=*/false);
  const at::Tensor d_q = d.q.view({N, Hkv, G + 1, D});
  const at::Tensor b = at::sigmoid(in.k.mean(-1, true, at::kFloat));
  const at::Tensor d_mean = d_b.sum(0).unsqueeze(-1) * b * (1 - b) / static_cast<double>(D);
  return {d_q.narrow(2, 0, G).reshape(in.q.sizes()),
          (d.k + d_q.select(2, G) + d_mean).to(in.k.scalar_type()),
          d_v,
          {d_state}};
}

}  // namespace

KernelTokens::KernelTokens(const std::vector<int64_t>& lengths, const at::Tensor& given, at::Device device)
    : sequences(static_cast<int64_t>(lengths.size())),
      N(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})),
      longest(lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end())),
      starts(given) {
  if (given.defined() || sequences * longest == N) return;
  std::vector<int64_t> all = {0};
  for (const int64_t length : lengths) all.push_back(all.back() + length);
  starts = at::tensor(all, at::kLong).to(device);
}

std::string cuda_recurrence_refuses(const LayerRecurrence& layer, int64_t H, int64_t Hkv, int64_t D) {
  const char* reason = nullptr;
  if (layer.structure->delta_rule) {
    kernels::DeltaScanForward args = {};
    args.H = H;
    args.Hkv = Hkv;
    args.K = args.V = D;
    reason = kernels::delta_scan_fwd_refuses(args);
  } else {
    kernels::DiagonalScanBackward args = {};
    args.scan.H = H;
    args.scan.Hkv = Hkv;
    args.scan.K = args.scan.V = D;
    reason = kernels::diagonal_scan_bwd_refuses(args);
  }
  return reason ? reason : "";
}

CudaRecurrence cuda_recurrence(const LayerRecurrence& layer, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const KernelTokens& tokens, const Tensors& states, bool training) {
  const Layer in = {layer, q, k, v, tokens, states};
  if (layer.structure->slots) return slots(in);
  if (layer.structure->delta_rule) return delta(in, training);
  return layer.structure->normalizes() ? normalized(in) : plain(in);
}

CudaRecurrenceGradients cuda_recurrence_backward(const LayerRecurrence& layer, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const KernelTokens& tokens, const Tensors& states,
                                                 const CudaRecurrence& forward, const at::Tensor& d_o,
                                                 const Tensors& d_states) {
  const Layer in = {layer, q, k, v, tokens, states};
  if (layer.structure->slots) return slots_backward(in, forward, d_o, d_states);
  if (layer.structure->delta_rule) return delta_backward(in, forward, d_o, d_states);
  return layer.structure->normalizes() ? normalized_backward(in, forward, d_o, d_states)
                                       : plain_backward(in, forward, d_o, d_states);
}

}  // namespace liger
