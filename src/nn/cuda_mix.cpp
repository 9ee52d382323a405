#include "nn/cuda_mix.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>

#include "decode_step.h"
#include "device.h"
#include "liger/error.h"
#include "nn/cuda_by_parts.h"
#include "nn/cuda_calls.h"
#include "nn/cuda_choices.h"
#include "nn/cuda_recurrence.h"
#include "nn/mix_autograd.h"
#include "nn/mix_settings.h"
#include "window_attention.h"

namespace liger {
namespace {

using torch::autograd::variable_list;
using Optional = std::optional<at::Tensor>;

// One call: contiguous tensors on the device.
struct Call {
  Call(const MixSettings& settings_, const MixInputs& in)
      : settings(settings_),
        q(in.q.contiguous()),
        k(in.k.contiguous()),
        v(in.v.contiguous()),
        tokens(in.lengths, in.starts, in.q.device()) {
    LIGER_CHECK(tokens.N == q.size(0) && k.size(0) == q.size(0) && v.sizes() == k.sizes() &&
                    q.size(1) % k.size(1) == 0 && q.size(2) == k.size(2),
                "cuda_mix: expected q [N, H, D], k and v [N, Hkv, D] of sequences with N tokens together, got q ",
                q.sizes(), ", k ", k.sizes(), ", v ", v.sizes(), ", ", tokens.N, " tokens");
    for (const at::Tensor& x : {k, v})
      LIGER_CHECK(x.scalar_type() == q.scalar_type() && x.device() == q.device(),
                  "cuda_mix: expected q, k and v of one type on one device, got ", q.scalar_type(), " on ",
                  q.device().str(), " and ", x.scalar_type(), " on ", x.device().str());
    check_states(in.states);
    if (settings.window == 0) return;
    LIGER_CHECK(in.rotation.cos.sizes() == at::IntArrayRef({q.size(0), q.size(2) / 2}) &&
                    in.rotation.sin.sizes() == in.rotation.cos.sizes() && in.rotation.cos.device() == q.device(),
                "cuda_mix: expected the rotation of each token, [N, D / 2] on ", q.device().str(), ", got ",
                in.rotation.cos.sizes(), " on ", in.rotation.cos.device().str());
    cos = in.rotation.cos.contiguous();
    sin = in.rotation.sin.contiguous();
  }
  const MixSettings& settings;
  at::Tensor q, k, v, cos, sin;
  KernelTokens tokens;

  const LayerRecurrence& layer() const { return settings.recurrence; }
  bool recurs() const { return layer().structure != nullptr; }
  double share() const { return recurs() ? settings.window_share : 1.0; }
  int64_t D() const { return q.size(2); }
  at::TensorOptions floats() const { return q.options().dtype(at::kFloat); }

  void check_states(const std::vector<at::Tensor>& states) const {
    if (states.empty()) return;
    const auto shapes = recurs() ? state_shapes(*layer().structure, D()) : std::vector<StateShape>();
    bool ok = states.size() == shapes.size();
    for (size_t i = 0; ok && i < shapes.size(); ++i)
      ok = states[i].sizes() == at::IntArrayRef({tokens.sequences, k.size(1), shapes[i].rows, shapes[i].columns}) &&
           states[i].scalar_type() == at::kFloat && states[i].device() == q.device();
    LIGER_CHECK(ok, "cuda_mix: expected ", shapes.size(), " states [S, Hkv, rows, columns] in float32 on ",
                q.device().str(), " for ", recurs() ? layer().structure->name : "a window alone");
  }
  void check_rings(const LayerState& state) const {
    const std::vector<int64_t> shape = {tokens.sequences, k.size(1), settings.window + settings.sinks, D()};
    for (const at::Tensor& ring : {state.keys, state.values, state.raw_keys})
      LIGER_CHECK(!ring.defined() || (ring.sizes() == shape && ring.is_contiguous() &&
                                      ring.scalar_type() == at::kFloat && ring.device() == q.device()),
                  "cuda_mix: expected rings ", at::IntArrayRef(shape), " in float32 on ", q.device().str(), ", got ",
                  ring.sizes(), " in ", ring.scalar_type(), " on ", ring.device().str());
  }

  // What every pass over the window is given.
  template <typename Arguments>
  Arguments window() const {
    Arguments args = {};
    args.type = kernel_type(q.scalar_type());
    args.sequences = tokens.sequences;
    args.Hkv = k.size(1);
    args.D = D();
    args.N = tokens.N;
    args.starts = tokens.starts_data();
    args.window = settings.window;
    args.sinks = settings.sinks;
    args.k = k.const_data_ptr();
    args.v = v.const_data_ptr();
    args.cos = cos.const_data_ptr<float>();
    args.sin = sin.const_data_ptr<float>();
    return args;
  }
  std::vector<at::Tensor> zero_states() const {
    std::vector<at::Tensor> out;
    if (recurs())
      for (const StateShape& shape : state_shapes(*layer().structure, D()))
        out.push_back(at::zeros({tokens.sequences, k.size(1), shape.rows, shape.columns}, floats()));
    return out;
  }
};

// The mix from the recurrence's output, which may be undefined; `lse` is filled if it is defined.
at::Tensor with_window(const Call& call, const at::Tensor& other, const at::Tensor& lse, const WindowPast& past = {}) {
  if (call.settings.window == 0) return other;
  const at::Tensor o = at::empty_like(call.q);
  auto args = call.window<kernels::WindowAttentionForward>();
  args.H = call.q.size(1);
  args.q = call.q.const_data_ptr();
  if (past.state) {
    args.seen = past.seen.const_data_ptr<int64_t>();
    args.ring_keys = past.state->keys.const_data_ptr<float>();
    args.ring_values = past.state->values.const_data_ptr<float>();
  }
  args.share = static_cast<float>(call.share());
  args.other = other.defined() ? other.const_data_ptr() : nullptr;
  args.other_share = 1 - args.share;
  args.o = o.mutable_data_ptr();
  args.lse = lse.defined() ? lse.mutable_data_ptr<float>() : nullptr;
  check_kernel(kernels::window_attention_fwd(args, kernel_stream(call.q)), call.q);
  return o;
}

class CudaMix : public torch::autograd::Function<CudaMix> {
 public:
  static variable_list forward(torch::autograd::AutogradContext* context, const MixSettings& settings,
                               const std::vector<int64_t>& lengths, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const Optional& cos, const Optional& sin, const Optional& starts,
                               const Optional& first, const Optional& second) {
    std::vector<at::Tensor> states;
    for (const Optional& state : {first, second})
      if (state) states.push_back(*state);
    const Call call(settings, {q,
                               k,
                               v,
                               {cos.value_or(at::Tensor()), sin.value_or(at::Tensor())},
                               lengths,
                               states,
                               starts.value_or(at::Tensor())});
    CudaRecurrence run;
    if (call.recurs()) run = cuda_recurrence(call.layer(), call.q, call.k, call.v, call.tokens, states, true);
    const at::Tensor lse = settings.window > 0 ? at::empty({call.tokens.N, q.size(1)}, call.floats()) : at::Tensor();
    variable_list out = {with_window(call, run.o, lse)};
    out.insert(out.end(), run.states.begin(), run.states.end());
    if (!call.recurs()) out.push_back(lse);

    variable_list saved = {call.q, call.k, call.v, call.cos, call.sin, call.tokens.starts, lse};
    states.resize(2);
    run.states.resize(2);
    saved.insert(saved.end(), states.begin(), states.end());
    saved.insert(saved.end(), run.states.begin(), run.states.end());
    saved.insert(saved.end(), run.saved.begin(), run.saved.end());
    context->save_for_backward(saved);
    save_settings(settings, lengths, *context);
    return out;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "cuda_mix: differentiable once; for higher orders take the definition");
    const auto saved = context->get_saved_variables();
    const MixSettings settings = saved_settings(*context);
    const Call call(settings,
                    {saved[0], saved[1], saved[2], {saved[3], saved[4]}, saved_lengths(*context), {}, saved[5]});
    const c10::DeviceGuard guard(call.q.device());
    const at::Tensor d_o = grads[0].defined() ? grads[0].contiguous() : at::zeros_like(call.q);

    CudaRecurrenceGradients d;
    if (call.recurs()) {
      const size_t count = state_shapes(*settings.recurrence.structure, call.D()).size();
      const std::vector<at::Tensor> states(saved.begin() + 7, saved.begin() + 7 + static_cast<ptrdiff_t>(count));
      std::vector<at::Tensor> d_states(grads.begin() + 1, grads.end());
      CudaRecurrence run = {{}, {saved[9], saved[10]}, {saved.begin() + 11, saved.end()}};
      d = cuda_recurrence_backward(call.layer(), call.q, call.k, call.v, call.tokens, states, run,
                                   settings.window > 0 ? d_o * (1 - call.share()) : d_o, d_states);
    }
    if (settings.window > 0) add_window(call, d_o, saved[6], call.recurs() ? at::Tensor() : grads[1], d);
    d.states.resize(2);
    return {{}, {}, d.q, d.k, d.v, {}, {}, {}, d.states[0], d.states[1]};
  }

 private:
  // To the recurrence's gradients, if there are any.
  static void add_window(const Call& call, const at::Tensor& d_o, const at::Tensor& lse, const at::Tensor& given_d_lse,
                         CudaRecurrenceGradients& d) {
    const at::Tensor d_lse = given_d_lse.defined() ? given_d_lse.contiguous() : given_d_lse;
    auto args = call.window<kernels::WindowAttentionBackward>();
    args.accumulate = d.q.defined();
    if (args.accumulate) {
      for (at::Tensor* x : {&d.q, &d.k, &d.v}) *x = x->contiguous();
    } else {
      d.q = at::empty_like(call.q);
      d.k = at::empty_like(call.k);
      d.v = at::empty_like(call.v);
    }
    args.H = call.q.size(1);
    args.q = call.q.const_data_ptr();
    args.lse = lse.const_data_ptr<float>();
    args.share = static_cast<float>(call.share());
    args.d_o = d_o.const_data_ptr();
    args.d_lse = d_lse.defined() ? d_lse.const_data_ptr<float>() : nullptr;
    args.dq = d.q.mutable_data_ptr();
    args.dk = d.k.mutable_data_ptr();
    args.dv = d.v.mutable_data_ptr();
    const at::Tensor workspace =
        at::empty({kernels::window_attention_bwd_workspace(args)}, call.q.options().dtype(at::kByte));
    args.workspace = static_cast<float*>(workspace.mutable_data_ptr());
    check_kernel(kernels::window_attention_bwd(args, kernel_stream(call.q)), call.q);
  }
};

bool is_one_each(const MixInputs& in) {
  return std::all_of(in.lengths.begin(), in.lengths.end(), [](int64_t n) { return n == 1; });
}

// One token of each sequence; nothing where the kernel for it refuses.
std::optional<at::Tensor> one_token(const Call& call, const at::Tensor& seen, LayerState& state) {
  const at::Tensor o = at::empty_like(call.q);
  kernels::DecodeStep args = {};
  args.type = kernel_type(call.q.scalar_type());
  args.sequences = call.tokens.sequences;
  args.H = call.q.size(1);
  args.Hkv = call.k.size(1);
  args.D = call.D();
  args.q = call.q.const_data_ptr();
  args.k = call.k.const_data_ptr();
  args.v = call.v.const_data_ptr();
  if (call.recurs()) {
    const Structure& s = *call.layer().structure;
    args.features = kernel_features(call.layer(), args.Hkv, call.q.device());
    args.delta_rule = s.delta_rule;
    args.reads_before_decay = s.reads_before_decay;
    args.normalizes = s.normalizes();
    args.slots = s.slots;
    for (size_t i = 0; i < state.recurrent.size(); ++i) {
      state.recurrent[i] = state.recurrent[i].contiguous();
      args.states[i] = state.recurrent[i].mutable_data_ptr<float>();
    }
  }
  args.window = call.settings.window;
  args.sinks = call.settings.sinks;
  args.share = static_cast<float>(call.share());
  if (args.window > 0) {
    args.cos = call.cos.const_data_ptr<float>();
    args.sin = call.sin.const_data_ptr<float>();
    args.ring_keys = state.keys.mutable_data_ptr<float>();
    args.ring_values = state.values.mutable_data_ptr<float>();
    args.seen = seen.const_data_ptr<int64_t>();
  }
  args.o = o.mutable_data_ptr();
  if (kernels::decode_step_refuses(args)) return {};
  check_kernel(kernels::decode_step(args, kernel_stream(call.q)), call.q);
  return o;
}

void remember(const Call& call, const at::Tensor& seen, LayerState& state) {
  auto args = call.window<kernels::WindowRemember>();
  args.seen = seen.const_data_ptr<int64_t>();
  args.ring_keys = state.keys.mutable_data_ptr<float>();
  args.ring_values = state.values.mutable_data_ptr<float>();
  check_kernel(kernels::window_remember(args, kernel_stream(call.q)), call.q);
  if (!state.raw_keys.defined()) return;
  const at::Tensor cos = at::ones_like(call.cos), sin = at::zeros_like(call.sin);  // keys that do not turn
  args.cos = cos.const_data_ptr<float>();
  args.sin = sin.const_data_ptr<float>();
  args.ring_keys = state.raw_keys.mutable_data_ptr<float>();
  check_kernel(kernels::window_remember(args, kernel_stream(call.q)), call.q);
}

// A layer that chose what the paper's do not have.
at::Tensor continue_by_parts(const MixSettings& settings, const MixInputs& in, const Call& call, const at::Tensor& seen,
                             bool reads_past, LayerState& state) {
  if (is_one_each(in))
    if (const auto o = cuda_choices_step(settings, in, seen, state)) return *o;
  MixInputs next = in;
  next.states = state.recurrent;
  const bool reads_rings = reads_past && settings.window > 0;
  const MixOutputs out = cuda_mix_by_parts(settings, next, reads_rings ? WindowPast{seen, &state} : WindowPast{});
  state.recurrent = out.states;
  if (settings.window > 0) remember(call, seen, state);
  return out.o;
}

// What the kernels do in one piece.
bool is_of_the_paper(const MixSettings& s, const MixInputs& in) {
  const Structure* structure = s.recurrence.structure;
  return !structure || (structure == find_structure(structure->name) && !in.scalars.defined() && !s.rotates_features &&
                        !s.beyond_window);
}

variable_list differentiable(const MixSettings& settings, const MixInputs& in, std::vector<at::Tensor> states) {
  states.resize(2);
  return CudaMix::apply(settings, in.lengths, in.q, in.k, in.v, if_defined(in.rotation.cos),
                        if_defined(in.rotation.sin), if_defined(in.starts), if_defined(states[0]),
                        if_defined(states[1]));
}

}  // namespace

std::string cuda_mix_refuses(const MixSettings& settings, const MixInputs& in, bool continues) {
  if (!kernels::compiled_with_cuda()) return "this build has no CUDA kernels; configure with -DLIGER_CUDA=ON";
  if (const char* reason = kernels::device_refuses(in.q.is_cpu() ? 0 : in.q.device().index())) return reason;
  const int64_t H = in.q.size(1), Hkv = in.k.size(1), D = in.q.size(2);
  const auto type = in.q.scalar_type();
  if (!kernel_reads(type)) return cat("tensors are ", type, ", the kernels read float32, bfloat16 and float16");
  if (settings.recurrence.structure) {
    const bool of_the_paper = is_of_the_paper(settings, in);
    const bool by_steps = !of_the_paper && continues && is_one_each(in);
    std::string reason = of_the_paper ? cuda_recurrence_refuses(settings.recurrence, H, Hkv, D)
                                      : cuda_mix_by_parts_refuses(settings, in);
    if (by_steps && cuda_choices_step_refuses(settings, in).empty()) reason.clear();
    if (!reason.empty()) return reason;
  }
  if (settings.window == 0) return "";
  kernels::WindowAttentionBackward args = {};
  args.type = kernel_type(type);
  if (in.lengths.size() > 65535) return "at most 65535 sequences";
  args.sequences = 1;  // how the tokens are divided changes nothing else
  args.H = H;
  args.Hkv = Hkv;
  args.D = D;
  args.N = in.q.size(0);
  args.window = settings.window;
  args.sinks = settings.sinks;
  const char* reason = kernels::window_attention_bwd_refuses(args);
  return reason ? reason : "";
}

MixOutputs cuda_mix(const MixSettings& settings, const MixInputs& in) {
  const c10::DeviceGuard guard(in.q.device());
  if (!is_of_the_paper(settings, in)) return cuda_mix_by_parts(settings, in);
  std::vector<at::Tensor> states = in.states.empty() ? Call(settings, in).zero_states() : in.states;
  if (wants_gradient(in)) {
    const variable_list out = differentiable(settings, in, states);
    const auto count = static_cast<ptrdiff_t>(states.size());
    return {out[0], {out.begin() + 1, out.begin() + 1 + count}};
  }
  const Call call(settings, in);
  CudaRecurrence run;
  if (call.recurs()) run = cuda_recurrence(call.layer(), call.q, call.k, call.v, call.tokens, states, false);
  return {with_window(call, run.o, {}), run.states};
}

WindowOutputs cuda_window(const MixSettings& settings, const MixInputs& in, const WindowPast& past) {
  MixSettings window = settings;
  window.recurrence.structure = nullptr;
  MixInputs alone = in;
  alone.states.clear();
  alone.scalars = at::Tensor();
  if (past.state) {
    const Call call(window, alone);
    const at::Tensor lse = at::empty({call.tokens.N, call.q.size(1)}, call.floats());
    return {with_window(call, {}, lse, past), lse};
  }
  const variable_list out = differentiable(window, alone, {});
  return {out[0], out[1]};
}

at::Tensor cuda_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                    const at::Tensor& seen, LayerState& state) {
  const c10::DeviceGuard guard(in.q.device());
  const at::NoGradGuard no_grad;
  const Call call(settings, in);
  if (state.recurrent.empty()) state.recurrent = call.zero_states();
  const bool has_window = settings.window > 0;
  make_rings(settings, call.tokens.sequences, call.k.size(1), call.D(), call.floats(), state);
  call.check_states(state.recurrent);
  if (has_window) call.check_rings(state);
  const bool reads_past = std::any_of(past.begin(), past.end(), [](int64_t n) { return n > 0; });
  if (!is_of_the_paper(settings, in)) return continue_by_parts(settings, in, call, seen, reads_past, state);
  if (is_one_each(in))
    if (const auto o = one_token(call, seen, state)) return *o;

  CudaRecurrence run;
  if (call.recurs()) {
    run = cuda_recurrence(call.layer(), call.q, call.k, call.v, call.tokens, state.recurrent, false);
    state.recurrent = run.states;
  }
  const at::Tensor o = with_window(call, run.o, {}, reads_past ? WindowPast{seen, &state} : WindowPast{});
  if (has_window) remember(call, seen, state);
  return o;
}

}  // namespace liger
