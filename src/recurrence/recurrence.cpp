#include "liger/recurrence/recurrence.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "liger/error.h"

namespace liger {
namespace {

at::Tensor feature(FeatureMap map, const at::Tensor& x) {
  switch (map) {
    case FeatureMap::kSoftmax: return at::softmax(x, -1);
    case FeatureMap::kUnit: return x / (x.square().sum(-1, /*keepdim=*/true) + 1e-6).sqrt();
    case FeatureMap::kComplement: return at::sigmoid(-x);
    case FeatureMap::kSoftmaxPair: return at::softmax(at::cat({x, -x}, -1), -1);
    case FeatureMap::kExpPair: {
      const at::Tensor held = x.clamp(-kLargestExponent, kLargestExponent);
      return at::exp(at::cat({held, -held}, -1));
    }
    default: return x;
  }
}

// [B, T, Hkv, D], of key channels.
at::Tensor channel_log_decay(const LayerRecurrence& layer, const at::Tensor& k) {
  const Structure& s = *layer.structure;
  if (!s.gated()) {
    at::Tensor g = at::zeros_like(k);
    for (int64_t h = 0; h < k.size(2); ++h)
      g.select(2, h).fill_(constant_log_decay(s, h, k.size(2), layer.layer, layer.layers));
    return g;
  }
  const at::Tensor x = s.per_channel ? k : k.mean(-1, /*keepdim=*/true).expand_as(k);
  if (s.decay == Decay::kExp) return -at::exp(x.clamp_max(20.0));
  return at::log_sigmoid(s.decay == Decay::kSoftplus ? -x : x) / layer.divisor();
}

// [B, T, Hkv, K], of features: of a pair both have their channel's.
at::Tensor log_decay(const LayerRecurrence& layer, const RecurrenceInputs& in) {
  const at::Tensor& key = in.gate.defined() ? in.gate : in.k;
  at::Tensor g = channel_log_decay(layer, key);
  if (in.log_gate.defined()) g = g * in.log_gate.exp().view({1, 1, -1, 1});
  if (in.present.defined()) g = at::where(in.present.view({1, -1, 1, 1}), g, at::zeros({}, g.options()));
  const int64_t D = key.size(3);
  return layer.structure->feature_dim(D) == D ? g : at::cat({g, g}, -1);
}

std::vector<at::Tensor> states_or_zeros(const LayerRecurrence& layer, const RecurrenceInputs& in) {
  const at::Tensor& k = in.k;
  const auto shapes = state_shapes(*layer.structure, k.size(3));
  std::vector<at::Tensor> out = in.states;
  if (out.empty())
    for (const StateShape& shape : shapes)
      out.push_back(at::zeros({k.size(0), k.size(2), shape.rows, shape.columns}, k.options()));
  LIGER_CHECK(out.size() == shapes.size(), "recurrence ", layer.structure->name, ": expected ", shapes.size(),
              " states, got ", out.size());
  return out;
}

// [B, T, H, D] at token t -> [B, Hkv, G, D]
at::Tensor grouped(const at::Tensor& q, int64_t t, int64_t kv_heads) {
  const at::Tensor x = q.select(1, t);
  return x.view({x.size(0), kv_heads, x.size(1) / kv_heads, x.size(2)});
}

// o_t = q_t^T (S_{t-1} + k_t v_t^T), then S_t = diag(a_t) S_{t-1} + k_t v_t^T.
ScanOutputs read_before_decay(const ScanInputs& in) {
  at::Tensor state = in.state;
  std::vector<at::Tensor> o;
  for (int64_t t = 0; t < in.k.size(1); ++t) {
    const at::Tensor write = in.k.select(1, t).unsqueeze(-1) * in.v.select(1, t).unsqueeze(-2);
    o.push_back(at::matmul(grouped(in.q, t, in.k.size(2)), state + write));
    state = at::exp(in.g.select(1, t)).unsqueeze(-1) * state + write;
  }
  return {at::stack(o, 1).view({in.q.size(0), in.q.size(1), in.q.size(2), in.v.size(3)}), state};
}

// K_t = K_{t-1} diag(a_t) + k_t s_t^T, V_t = diag(a_t) V_{t-1} + s_t v_t^T, o_t = V_t^T softmax(K_t^T q_t), s = 1 - a.
RecurrenceOutputs gated_slots(const ScanInputs& in, at::Tensor keys, at::Tensor values) {
  std::vector<at::Tensor> o;
  for (int64_t t = 0; t < in.k.size(1); ++t) {
    const at::Tensor g = in.g.select(1, t), a = at::exp(g), s = -at::expm1(g);
    keys = keys * a.unsqueeze(-2) + in.k.select(1, t).unsqueeze(-1) * s.unsqueeze(-2);
    values = values * a.unsqueeze(-1) + s.unsqueeze(-1) * in.v.select(1, t).unsqueeze(-2);
    o.push_back(at::matmul(at::softmax(at::matmul(grouped(in.q, t, in.k.size(2)), keys), -1), values));
  }
  return {at::stack(o, 1).view(in.q.sizes()), {keys, values}, {}};
}

// The last of the columns is d; o is 0 where there is nothing to divide.
RecurrenceOutputs normalized(const Structure& s, const ScanOutputs& out, int64_t D) {
  const at::Tensor sum = out.o.narrow(-1, 0, D), mass = out.o.select(-1, D), d = mass.unsqueeze(-1);
  if (s.normalizer == Normalizer::kAtLeastOne) return {sum / d.abs().clamp_min(1.0), {out.state}, mass};
  const at::Tensor empty = d <= 0;
  return {sum.masked_fill(empty, 0.0) / d.masked_fill(empty, 1.0), {out.state}, mass};
}

}  // namespace

bool is_one_scan(const Structure& s) { return !s.window_only && !s.slots && !s.reads_before_decay; }

RecurrenceOutputs recurrence(const LayerRecurrence& layer, const RecurrenceInputs& in, ScanMethod method) {
  if (layer.structure->delta_rule) method = ScanMethod::kReference;
  return recurrence(layer, in, [method](const ScanInputs& scan) { return gated_scan(scan, method); });
}

RecurrenceOutputs recurrence(const LayerRecurrence& layer, const RecurrenceInputs& given, const ScanFunction& scan) {
  const Structure& s = *layer.structure;
  const at::Tensor& v = given.v;
  const auto before = states_or_zeros(layer, given);
  ScanInputs in = {feature(s.query, given.q), feature(s.key, given.k), v, log_decay(layer, given), {}, before[0]};
  if (given.present.defined()) in.k = in.k * given.present.view({1, -1, 1, 1});
  if (s.slots) return gated_slots(in, before[0], before[1]);
  if (s.reads_before_decay) {
    LIGER_CHECK(!s.normalizes(), s.name, ": has no sum of keys to divide by");
    const ScanOutputs out = read_before_decay(in);
    return {out.o, {out.state}, {}};
  }
  if (s.delta_rule) in.b = at::sigmoid((given.gate.defined() ? given.gate : given.k).mean(-1));
  if (s.normalizes()) in.v = at::cat({v, at::ones({v.size(0), v.size(1), v.size(2), 1}, v.options())}, -1);
  const ScanOutputs out = scan(in);
  return s.normalizes() ? normalized(s, out, v.size(3)) : RecurrenceOutputs{out.o, {out.state}, {}};
}

}  // namespace liger
