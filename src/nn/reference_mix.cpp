#include "nn/reference_mix.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "liger/core/dtype.h"

namespace liger {
namespace {

// One sequence: [T, heads, D] of its q, k, v and [T, D/2] of its rotation.
struct Sequence {
  at::Tensor q, k, v;
  Rotation rotation;
};

std::vector<Sequence> split(const MixInputs& in) {
  std::vector<Sequence> out;
  int64_t start = 0;
  for (const int64_t length : in.lengths) {
    const auto part = [&](const at::Tensor& x) { return x.defined() ? x.narrow(0, start, length) : x; };
    out.push_back({part(in.q), part(in.k), part(in.v), {part(in.rotation.cos), part(in.rotation.sin)}});
    start += length;
  }
  return out;
}

at::Tensor positions(int64_t begin, int64_t end, const at::Tensor& like) {
  return at::arange(begin, end, like.options().dtype(at::kLong));
}

// What the window sees before this call, from the slots [Hkv, window + sinks, D] of one sequence.
WindowContext context_of(const MixSettings& s, const at::Tensor& keys, const at::Tensor& values, int64_t seen) {
  const at::Tensor slots = positions(seen - s.window + 1, seen, keys).remainder(s.window);
  const auto latest = [&](const at::Tensor& ring) { return ring.index_select(1, slots).transpose(0, 1).unsqueeze(0); };
  const auto sinks = [&](const at::Tensor& ring) {
    return s.sinks == 0 ? at::Tensor() : ring.narrow(1, s.window, s.sinks).transpose(0, 1).unsqueeze(0);
  };
  return {latest(keys), latest(values), sinks(keys), sinks(values), at::full({1}, seen, slots.options())};
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

at::Tensor window(const MixSettings& s, const Sequence& x, int64_t seen, const at::Tensor& keys,
                  const at::Tensor& values) {
  const auto type = wide_type(x.q);
  const at::Tensor q = rotate(x.q.to(type), x.rotation), k = rotate(x.k.to(type), x.rotation), v = x.v.to(type);
  WindowContext context;
  if (keys.defined()) {
    const WindowContext before = context_of(s, keys, values, seen);
    remember(s, k, seen, keys);
    remember(s, v, seen, values);
    context = context_of(s, keys, values, seen);  // the sinks may be among the new tokens, the other keys are not
    context.keys = before.keys;
    context.values = before.values;
  } else if (const int64_t sinks = std::min(s.sinks, k.size(0)); sinks > 0) {
    context.sink_keys = k.narrow(0, 0, sinks).unsqueeze(0);
    context.sink_values = v.narrow(0, 0, sinks).unsqueeze(0);
  }
  return window_attention(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), s.window, context).squeeze(0);
}

// One sequence with its states [1, Hkv, ...], which advance.
at::Tensor mix(const MixSettings& s, const Sequence& x, ScanMethod method, std::vector<at::Tensor>& states,
               int64_t seen = 0, const at::Tensor& keys = {}, const at::Tensor& values = {}) {
  at::Tensor out;
  if (s.window > 0) out = window(s, x, seen, keys, values);
  if (!s.recurrence.structure) return out.to(x.q.scalar_type());
  const auto wide = [&](const at::Tensor& y) { return y.to(wide_type(x.q)).unsqueeze(0); };
  RecurrenceOutputs linear = recurrence(s.recurrence, wide(x.q), wide(x.k), wide(x.v), states, method);
  states = linear.states;
  const at::Tensor o = linear.o.squeeze(0);
  return (out.defined() ? out * s.window_share + o * (1 - s.window_share) : o).to(x.q.scalar_type());
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

MixOutputs reference_mix(const MixSettings& settings, const MixInputs& in, ScanMethod method) {
  std::vector<at::Tensor> o;
  std::vector<std::vector<at::Tensor>> states;
  for (const Sequence& sequence : split(in)) {
    states.push_back(rows(in.states, static_cast<int64_t>(states.size())));
    o.push_back(mix(settings, sequence, method, states.back()));
  }
  return {at::cat(o), together(states)};
}

at::Tensor reference_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                         LayerState& state, ScanMethod method) {
  const int64_t S = static_cast<int64_t>(in.lengths.size()), Hkv = in.k.size(1), D = in.k.size(2);
  if (settings.window > 0 && !state.keys.defined()) {
    const auto options = in.k.options().dtype(wide_type(in.k));
    state.keys = at::zeros({S, Hkv, settings.window + settings.sinks, D}, options);
    state.values = at::zeros_like(state.keys);
  }
  std::vector<at::Tensor> o;
  std::vector<std::vector<at::Tensor>> states;
  for (const Sequence& sequence : split(in)) {
    const int64_t s = static_cast<int64_t>(states.size());
    states.push_back(rows(state.recurrent, s));
    const bool ring = settings.window > 0;
    o.push_back(mix(settings, sequence, method, states.back(), past[s], ring ? state.keys[s] : at::Tensor(),
                    ring ? state.values[s] : at::Tensor()));
  }
  state.recurrent = together(states);
  return at::cat(o);
}

}  // namespace liger
