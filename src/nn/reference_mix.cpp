#include "nn/reference_mix.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "liger/core/dtype.h"
#include "liger/core/head_scalars.h"
#include "nn/mix_settings.h"

namespace liger {
namespace {

// One sequence: [T, heads, D] of its q, k, v and [T, D/2] of its rotation.
struct Sequence {
  at::Tensor q, k, v, gate;
  Rotation rotation;
};

std::vector<Sequence> split(const MixInputs& in) {
  std::vector<Sequence> out;
  int64_t start = 0;
  for (const int64_t length : in.lengths) {
    const auto part = [&](const at::Tensor& x) { return x.defined() ? x.narrow(0, start, length) : x; };
    out.push_back({part(in.q), part(in.k), part(in.v), part(in.gate), {part(in.rotation.cos), part(in.rotation.sin)}});
    start += length;
  }
  return out;
}

at::Tensor positions(int64_t begin, int64_t end, const at::Tensor& like) {
  return at::arange(begin, end, like.options().dtype(at::kLong));
}

// The latest `count` tokens before position `seen`, the newest last: [1, count, Hkv, D].
at::Tensor latest(const MixSettings& s, const at::Tensor& ring, int64_t seen, int64_t count) {
  const at::Tensor slots = positions(seen - count, seen, ring).remainder(s.window);
  return ring.index_select(1, slots).transpose(0, 1).unsqueeze(0);
}

// What the window sees before this call, from the slots [Hkv, window + sinks, D] of one sequence.
WindowContext context_of(const MixSettings& s, const at::Tensor& keys, const at::Tensor& values, int64_t seen) {
  const auto sinks = [&](const at::Tensor& ring) {
    return s.sinks == 0 ? at::Tensor() : ring.narrow(1, s.window, s.sinks).transpose(0, 1).unsqueeze(0);
  };
  return {latest(s, keys, seen, s.window - 1), latest(s, values, seen, s.window - 1), sinks(keys), sinks(values),
          at::full({1}, seen, keys.options().dtype(at::kLong))};
}

// Puts x [T, Hkv, D], positions seen .. seen + T - 1, into its slots.
void remember(const MixSettings& s, const at::Tensor& x, int64_t seen, at::Tensor ring) {
  const int64_t T = x.size(0), kept = std::min(T, s.window);
  const at::Tensor by_head = x.to(ring.scalar_type()).transpose(0, 1);
  const at::Tensor slots = positions(seen + T - kept, seen + T, ring).remainder(s.window);
  ring.index_copy_(1, slots, by_head.narrow(1, T - kept, kept));
  if (const int64_t count = std::min(s.sinks - seen, T); count > 0)
    ring.narrow(1, s.window + seen, count).copy_(by_head.narrow(1, 0, count));
}

// One sequence widened, [1, T, heads, D], and its keys and queries rotated where anything is.
struct Wide {
  at::Tensor q, k, v, gate, rotated_q, rotated_k;

  Wide(const MixSettings& s, const Sequence& x) {
    const auto type = wide_type(x.q);
    q = x.q.to(type).unsqueeze(0);
    k = x.k.to(type).unsqueeze(0);
    v = x.v.to(type).unsqueeze(0);
    gate = x.gate.defined() ? x.gate.to(type).unsqueeze(0) : k;
    if (!s.rotates()) return;
    rotated_q = rotate(x.q.to(type), x.rotation).unsqueeze(0);
    rotated_k = rotate(x.k.to(type), x.rotation).unsqueeze(0);
  }
  int64_t tokens() const { return q.size(1); }
};

// The slots of one sequence, [Hkv, window + sinks, D] each; undefined without a state.
struct Rings {
  at::Tensor keys, values, raw_keys;
};

at::Tensor window(const MixSettings& s, const Wide& x, int64_t seen, const Rings& rings, at::Tensor& log_sum) {
  WindowContext context;
  if (rings.keys.defined()) {
    const WindowContext before = context_of(s, rings.keys, rings.values, seen);
    remember(s, x.rotated_k[0], seen, rings.keys);
    remember(s, x.v[0], seen, rings.values);
    context = context_of(s, rings.keys, rings.values, seen);  // sinks may be among the new, the other keys are not
    context.keys = before.keys;
    context.values = before.values;
  } else if (const int64_t sinks = std::min(s.sinks, x.tokens()); sinks > 0) {
    context.sink_keys = x.rotated_k.narrow(1, 0, sinks);
    context.sink_values = x.v.narrow(1, 0, sinks);
  }
  return window_attention(x.rotated_q, x.rotated_k, x.v, s.window, context, &log_sum, s.softcap);
}

// What the recurrence reads of the sequence; `rings` are as they were before these tokens.
RecurrenceInputs linear_inputs(const MixSettings& s, const Wide& x, int64_t seen, const Rings& rings) {
  const at::Tensor& q = s.rotates_features ? x.rotated_q : x.q;
  const at::Tensor& k = s.rotates_features ? x.rotated_k : x.k;
  if (!s.beyond_window) return {.q = q, .k = k, .v = x.v, .states = {}, .gate = x.gate};
  const int64_t T = x.tokens();
  const auto late = [&](const at::Tensor& now, const at::Tensor& ring) {
    const at::Tensor before = ring.defined() ? latest(s, ring, seen, s.window)
                                             : at::zeros({1, s.window, now.size(2), now.size(3)}, now.options());
    return at::cat({before, now}, 1).narrow(1, 0, T);
  };
  RecurrenceInputs in = {
      .q = q, .k = {}, .v = late(x.v, rings.values), .states = {}, .gate = late(x.gate, rings.raw_keys)};
  in.k = s.rotates_features ? late(k, rings.keys) : in.gate;
  in.present = positions(seen - s.window, seen - s.window + T, x.q) >= s.sinks;
  return in;
}

// One sequence of `all` with its states [1, Hkv, ...], which advance.
at::Tensor mix(const MixSettings& s, const Sequence& sequence, const MixInputs& all, ScanMethod method,
               std::vector<at::Tensor>& states, int64_t seen = 0, const Rings& rings = {}) {
  const at::Tensor& scalars = all.scalars;
  const Wide x(s, sequence);
  RecurrenceInputs in;
  if (s.recurrence.structure) in = linear_inputs(s, x, seen, rings);
  if (rings.raw_keys.defined()) remember(s, x.gate[0], seen, rings.raw_keys);
  at::Tensor out, log_sum;
  if (s.window > 0) out = window(s, x, seen, rings, log_sum);
  if (s.recurrence.structure) {
    in.q = with_map(in.q, all.query_map);
    in.k = with_map(in.k, all.key_map);
    apply_scalars(scalars, in);
    in.states = states;
    const RecurrenceOutputs linear = recurrence(s.recurrence, in, method);
    states = linear.states;
    out = out.defined() ? combine(s, scalars, out, log_sum, linear) : linear.o;
  }
  return out.squeeze(0).to(sequence.q.scalar_type());
}

std::vector<at::Tensor> rows(const std::vector<at::Tensor>& states, int64_t sequence) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& state : states) out.push_back(state.narrow(0, sequence, 1));
  return out;
}

// Of all sequences, from those of each.
std::vector<at::Tensor> together(const std::vector<std::vector<at::Tensor>>& by_sequence) {
  std::vector<at::Tensor> out;
  for (size_t i = 0; i < by_sequence.front().size(); ++i) {
    std::vector<at::Tensor> parts;
    for (const auto& states : by_sequence) parts.push_back(states[i]);
    out.push_back(at::cat(parts));
  }
  return out;
}

}  // namespace

at::Tensor with_map(const at::Tensor& x, const at::Tensor& map) {
  return map.defined() ? x + at::einsum("bthd,hed->bthe", {x, map.to(x.scalar_type())}) : x;
}

void apply_scalars(const at::Tensor& scalars, RecurrenceInputs& in) {
  if (!scalars.defined()) return;
  const int64_t Hkv = in.k.size(2);
  in.q = in.q * scalars[kQueryScale].view({1, 1, -1, 1});
  in.k = in.k * scalars[kKeyScale].narrow(0, 0, Hkv).view({1, 1, -1, 1});
  in.log_gate = scalars[kLogGate].narrow(0, 0, Hkv);
}

at::Tensor combine(const MixSettings& s, const at::Tensor& scalars, const at::Tensor& window, const at::Tensor& log_sum,
                   const RecurrenceOutputs& linear) {
  const auto of_heads = [&](HeadScalar row) { return scalars[row].view({1, 1, -1, 1}); };
  if (!s.shares_normalizer()) {
    if (!scalars.defined()) return window * s.window_share + linear.o * (1 - s.window_share);
    return window * of_heads(kWindowWeight) + linear.o * of_heads(kLinearWeight);
  }
  const at::Tensor mass = linear.mass.unsqueeze(-1), empty = mass <= 0;
  at::Tensor against = mass.masked_fill(empty, 1.0).log() - log_sum.unsqueeze(-1);
  if (scalars.defined()) against = against + of_heads(kLinearWeight);
  const at::Tensor share = at::sigmoid(-against).masked_fill(empty, 1.0);
  return window * share + linear.o * (1 - share);
}

MixOutputs reference_mix(const MixSettings& settings, const MixInputs& in, ScanMethod method) {
  std::vector<at::Tensor> o;
  std::vector<std::vector<at::Tensor>> states;
  for (const Sequence& sequence : split(in)) {
    states.push_back(rows(in.states, static_cast<int64_t>(states.size())));
    o.push_back(mix(settings, sequence, in, method, states.back()));
  }
  return {at::cat(o), together(states)};
}

at::Tensor reference_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                         LayerState& state, ScanMethod method) {
  make_rings(settings, static_cast<int64_t>(in.lengths.size()), in.k.size(1), in.k.size(2),
             in.k.options().dtype(wide_type(in.k)), state);
  std::vector<at::Tensor> o;
  std::vector<std::vector<at::Tensor>> states;
  for (const Sequence& sequence : split(in)) {
    const int64_t s = static_cast<int64_t>(states.size());
    states.push_back(rows(state.recurrent, s));
    const auto of_sequence = [&](const at::Tensor& ring) { return ring.defined() ? ring[s] : ring; };
    o.push_back(mix(settings, sequence, in, method, states.back(), past[s],
                    {of_sequence(state.keys), of_sequence(state.values), of_sequence(state.raw_keys)}));
  }
  state.recurrent = together(states);
  return at::cat(o);
}

}  // namespace liger
