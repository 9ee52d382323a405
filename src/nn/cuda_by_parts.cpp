#include "nn/cuda_by_parts.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "core/optional_tensor.h"
#include "liger/error.h"
#include "nn/cuda_diagonal.h"
#include "nn/cuda_mix.h"
#include "nn/mix_settings.h"
#include "nn/reference_mix.h"

namespace liger {
namespace {

using torch::autograd::variable_list;

// The scan's kernels are square: K = V, of these sizes.
int64_t kernel_size(int64_t K, int64_t V) {
  for (const int64_t size : {64, 128, 256})
    if (size >= std::max(K, V)) return size;
  return 0;
}

// The last dimension, and of a state the one before, filled up with zeros, which change nothing.
at::Tensor filled(const at::Tensor& x, int64_t size) {
  return at::constant_pad_nd(x, {0, size - x.size(-1)}).contiguous();
}
at::Tensor filled_state(const at::Tensor& x, int64_t size) {
  return at::constant_pad_nd(x, {0, size - x.size(-1), 0, size - x.size(-2)}).contiguous();
}

// A scan of features [N, H, P], [N, Hkv, P] twice, log-decays [N, Hkv, P] and states [S, Hkv, P, P].
class CudaScan : public torch::autograd::Function<CudaScan> {
 public:
  static variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const at::Tensor& g, const at::Tensor& state,
                               const std::vector<int64_t>& lengths, const std::optional<at::Tensor>& starts) {
    const KernelTokens tokens(lengths, starts.value_or(at::Tensor()), q.device());
    Diagonal scan(q, k, v, state, tokens, {}, /*serial=*/false, g);
    at::Tensor last;
    const at::Tensor o = scan.columns(last);
    context->save_for_backward({scan.q, scan.k, scan.v, scan.g, scan.state, last, scan.states, tokens.starts});
    context->saved_data["lengths"] = lengths;
    return {o, last};
  }
  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "cuda_mix: differentiable once; for higher orders take the definition");
    const auto saved = context->get_saved_variables();
    const KernelTokens tokens(context->saved_data["lengths"].toIntVector(), saved[7], saved[0].device());
    Diagonal scan(saved[0], saved[1], saved[2], saved[4], tokens, {}, /*serial=*/false, saved[3]);
    if (scan.scan.side_by_side) scan.states = saved[6];
    const at::Tensor d_o = grads[0].defined() ? grads[0].contiguous() : at::zeros(saved[0].sizes(), saved[0].options());
    const auto d = scan.backward(d_o, saved[5], grads[1]);
    return {d.q, d.k, d.v, d.g, d.state, {}, {}};
  }
};

// Sequences one after the other as one batch [1, N, ..]; states of them all, [S, ..], in and out.
ScanOutputs scan_sequences(const ScanInputs& in, const std::vector<int64_t>& lengths, const at::Tensor& starts) {
  const int64_t K = in.k.size(3), V = in.v.size(3), P = kernel_size(K, V);
  const variable_list out = CudaScan::apply(filled(in.q[0], P), filled(in.k[0], P), filled(in.v[0], P),
                                            filled(in.g[0], P), filled_state(in.state, P), lengths, if_defined(starts));
  return {out[0].narrow(-1, 0, V).unsqueeze(0), out[1].narrow(-2, 0, K).narrow(-1, 0, V)};
}

// For each token the place of the one `window` before it: among these N, or from N on in the rings' slots, or a last
// place where there is nothing; and whether that is there and no sink. Without a copy from the host, where the
// sequences' places are on the device.
struct Late {
  at::Tensor from, present;
};
Late late(const MixSettings& s, const KernelTokens& tokens, at::Device device, const WindowPast& past) {
  const at::Tensor n = at::arange(tokens.N, at::TensorOptions(at::kLong).device(device));
  const at::Tensor& starts = tokens.starts;
  const at::Tensor sequence = starts.defined() ? at::searchsorted(starts, n, /*out_int32=*/false, /*right=*/true) - 1
                                               : n.floor_divide(tokens.longest);
  const at::Tensor t = n - (starts.defined() ? starts.index_select(0, sequence) : sequence * tokens.longest);
  if (!past.state) return {(n - s.window).masked_fill(t < s.window, tokens.N), t - s.window >= s.sinks};
  const at::Tensor position = t + past.seen.index_select(0, sequence) - s.window;
  const int64_t slots = s.window + s.sinks;
  const at::Tensor slot = tokens.N + sequence * slots + position.remainder(s.window);
  return {at::where(t < s.window, slot, n - s.window).masked_fill(position < 0, tokens.N + tokens.sequences * slots),
          position >= s.sinks};
}

// Of [N, Hkv, D] and a ring [S, Hkv, slots, D], if there is one, the rows that late() names.
at::Tensor late_rows(const at::Tensor& x, const at::Tensor& ring, const at::Tensor& from) {
  std::vector<at::Tensor> rows = {x};
  if (ring.defined()) rows.push_back(ring.transpose(1, 2).reshape({-1, x.size(1), x.size(2)}));
  rows.push_back(at::zeros({1, x.size(1), x.size(2)}, x.options()));
  return at::cat(rows).index_select(0, from);
}

RecurrenceInputs linear_inputs(const MixSettings& s, const MixInputs& in, const KernelTokens& tokens,
                               const WindowPast& past) {
  const auto wide = [](const at::Tensor& x) { return x.to(at::kFloat); };
  const auto feature_of = [&](const at::Tensor& x) {
    return s.rotates_features ? rotate(wide(x), in.rotation) : wide(x);
  };
  RecurrenceInputs out = {
      .q = feature_of(in.q), .k = feature_of(in.k), .v = wide(in.v), .states = in.states, .gate = wide(in.k)};
  if (s.beyond_window) {
    const Late at = late(s, tokens, in.q.device(), past);
    const LayerState rings = past.state ? *past.state : LayerState();
    out.k = late_rows(out.k, s.rotates_features ? rings.keys : rings.raw_keys, at.from);
    out.v = late_rows(out.v, rings.values, at.from);
    out.gate = late_rows(out.gate, rings.raw_keys, at.from);
    out.present = at.present;
  }
  for (at::Tensor* x : {&out.q, &out.k, &out.v, &out.gate}) *x = x->unsqueeze(0);
  return out;
}

std::vector<at::Tensor> zero_states(const MixSettings& s, const MixInputs& in) {
  std::vector<at::Tensor> out;
  for (const StateShape& shape : state_shapes(*s.recurrence.structure, in.q.size(2)))
    out.push_back(
        at::zeros({std::ssize(in.lengths), in.k.size(1), shape.rows, shape.columns}, in.q.options().dtype(at::kFloat)));
  return out;
}

}  // namespace

std::string cuda_mix_by_parts_refuses(const MixSettings& settings, const MixInputs& in) {
  const Structure& s = *settings.recurrence.structure;
  if (!is_one_scan(s) || s.delta_rule) return cat("the CUDA kernels have ", s.name, " as in the paper only");
  const int64_t D = in.q.size(2);
  const StateShape shape = state_shapes(s, D).front();
  if (kernel_size(shape.rows, shape.columns) == 0)
    return cat("the CUDA kernels keep states of up to 256 x 256, and this one is ", shape.rows, " x ", shape.columns);
  return "";
}

MixOutputs cuda_mix_by_parts(const MixSettings& settings, const MixInputs& in, const WindowPast& past) {
  const KernelTokens tokens(in.lengths, in.starts, in.q.device());
  RecurrenceInputs inputs = linear_inputs(settings, in, tokens, past);
  if (inputs.states.empty()) inputs.states = zero_states(settings, in);
  apply_scalars(in.scalars, inputs);
  const RecurrenceOutputs linear = recurrence(settings.recurrence, inputs, [&](const ScanInputs& scan) {
    return scan_sequences(scan, in.lengths, tokens.starts);
  });
  at::Tensor out = linear.o;
  if (settings.window > 0) {
    const WindowOutputs window = cuda_window(settings, in, past);
    out = combine(settings, in.scalars, window.o.to(at::kFloat).unsqueeze(0), window.log_sum.unsqueeze(0), linear);
  }
  return {out.squeeze(0).to(in.q.scalar_type()), linear.states};
}

}  // namespace liger
