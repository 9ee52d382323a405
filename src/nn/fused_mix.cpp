#include "nn/fused_mix.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "core/cpu_jobs.h"
#include "liger/core/dtype.h"
#include "liger/core/head_scalars.h"
#include "liger/error.h"
#include "nn/mix_autograd.h"
#include "nn/mix_head.h"
#include "nn/mix_settings.h"
#include "ops/rows.h"

namespace liger {
namespace {

using torch::autograd::variable_list;
using Optional = std::optional<at::Tensor>;

char* at_scalar(const at::Tensor& x, int64_t index) {
  return static_cast<char*>(x.data_ptr()) + index * static_cast<int64_t>(x.element_size());
}

// One call: contiguous tensors, sequence after sequence.
class Mix {
 public:
  Mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>* past = nullptr)
      : settings_(settings),
        q(in.q.contiguous()),
        k(in.k.contiguous()),
        v(in.v.contiguous()),
        past_(past),
        lengths_(in.lengths),
        starts_(in.lengths.size(), 0) {
    if (in.scalars.defined()) {
      LIGER_CHECK(in.scalars.sizes() == at::IntArrayRef({kHeadScalars, q.size(1)}),
                  "fused_mix: expected numbers of heads [", kHeadScalars, ", ", q.size(1), "], got ",
                  in.scalars.sizes());
      scalars = in.scalars.to(wide_type(q)).contiguous();
    }
    if (settings.rotates()) {
      cos_ = in.rotation.cos.contiguous();
      sin_ = in.rotation.sin.contiguous();
    }
    std::partial_sum(lengths_.begin(), lengths_.end() - 1, starts_.begin() + 1);
    LIGER_CHECK(starts_.back() + lengths_.back() == q.size(0) && k.size(0) == q.size(0) && v.sizes() == k.sizes() &&
                    q.size(1) % k.size(1) == 0 && q.size(2) == k.size(2),
                "fused_mix: expected q [N, H, D], k and v [N, Hkv, D] of sequences with N tokens together, got q ",
                q.sizes(), ", k ", k.sizes(), ", v ", v.sizes(), ", ", starts_.back() + lengths_.back(), " tokens");
  }

  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t kv_heads() const { return k.size(1); }
  int64_t group() const { return q.size(1) / k.size(1); }
  int64_t D() const { return q.size(2); }
  at::TensorOptions wide() const { return q.options().dtype(wide_type(q)); }
  int64_t start(int64_t s) const { return starts_[s]; }

  /// Offset of a head's first value in a tensor of `width` values a token and key/value head.
  int64_t offset(int64_t s, int64_t h, int64_t width) const { return (starts_[s] * kv_heads() + h) * width; }

  MixHead head(int64_t s, int64_t h) const {
    MixHead head = mix_head(settings_, h, kv_heads(), group(), D(), scalars);
    head.element = element_of(q.scalar_type());
    head.tokens = lengths_[s];
    head.seen = past_ ? (*past_)[s] : 0;
    head.q = at_scalar(q, offset(s, h, group() * D()));
    head.k = at_scalar(k, offset(s, h, D()));
    head.v = at_scalar(v, offset(s, h, D()));
    head.q_stride = q.size(1) * D();
    head.kv_stride = kv_heads() * D();
    if (settings_.rotates()) {
      head.cos = cos_.const_data_ptr<float>() + starts_[s] * (D() / 2);
      head.sin = sin_.const_data_ptr<float>() + starts_[s] * (D() / 2);
    }
    return head;
  }

  std::vector<at::Tensor> zero_states() const {
    std::vector<at::Tensor> out;
    if (!settings_.recurrence.structure) return out;
    for (const StateShape& shape : state_shapes(*settings_.recurrence.structure, D()))
      out.push_back(at::zeros({sequences(), kv_heads(), shape.rows, shape.columns}, wide()));
    return out;
  }

  // Runs kernel over all heads with pass(sequence, head) for each.
  template <typename Pass, typename MakePass>
  void run(int64_t (*scratch)(const MixHead&, int64_t), void (*kernel)(const MixHead*, const Pass*, int64_t, void*),
           const MakePass& pass) const {
    run_heads(lengths_, kv_heads(), scratch, kernel, [&](int64_t s, int64_t h) { return head(s, h); }, pass);
  }

 private:
  MixSettings settings_;

 public:
  at::Tensor q, k, v, scalars;

 private:
  at::Tensor cos_, sin_;
  const std::vector<int64_t>* past_;
  std::vector<int64_t> lengths_, starts_;
};

// Of all heads of a sequence.
int64_t kept_states(const MixHead& head, int64_t kv_heads) {
  return cpu_kernels().mix_checkpoint_scalars(head) * kv_heads;
}
int64_t kept_log_sums(const MixHead& head, int64_t kv_heads) {
  const int64_t chunk = cpu_kernels().chunk;
  return (head.tokens + chunk - 1) / chunk * chunk * head.group * kv_heads;
}

// What the backward pass needs: states now and then, and each query's log-sum-exp. Where each sequence's part begins.
struct Saved {
  at::Tensor checkpoints, lse;
  std::vector<int64_t> checkpoint_starts, lse_starts;

  explicit Saved(const Mix& mix) {
    int64_t checkpoint = 0, log_sums = 0;
    for (int64_t s = 0; s < mix.sequences(); ++s) {
      checkpoint_starts.push_back(checkpoint);
      lse_starts.push_back(log_sums);
      checkpoint += kept_states(mix.head(s, 0), mix.kv_heads());
      log_sums += kept_log_sums(mix.head(s, 0), mix.kv_heads());
    }
    checkpoint_starts.push_back(checkpoint);
    lse_starts.push_back(log_sums);
  }
  void allocate(const Mix& mix) {
    checkpoints = at::empty({checkpoint_starts.back()}, mix.wide());
    lse = at::empty({lse_starts.back()}, mix.wide());
  }
  static char* part(const at::Tensor& all, const std::vector<int64_t>& starts, const Mix& mix, int64_t s, int64_t h) {
    return at_scalar(all, starts[s] + (starts[s + 1] - starts[s]) / mix.kv_heads() * h);
  }
};

// States and rings are updated in place.
at::Tensor run_forward(const Mix& mix, const std::vector<at::Tensor>& states, LayerState* ring, Saved* saved) {
  const CpuKernels& kernels = cpu_kernels();
  at::Tensor o = at::empty_like(mix.q);
  mix.run(kernels.mix_forward_scratch, kernels.mix_forward, [&](int64_t s, int64_t h) -> MixForward {
    const auto block = [&](const at::Tensor& x) -> void* {  // of sequence s and head h of [S, Hkv, ...]
      if (!x.defined()) return nullptr;
      const int64_t size = x.numel() / (x.size(0) * x.size(1));
      return at_scalar(x, (s * mix.kv_heads() + h) * size);
    };
    return {.o = at_scalar(o, mix.offset(s, h, mix.group() * mix.D())),
            .states = {states.empty() ? nullptr : block(states[0]), states.size() < 2 ? nullptr : block(states[1])},
            .ring_keys = ring ? block(ring->keys) : nullptr,
            .ring_values = ring ? block(ring->values) : nullptr,
            .ring_raw_keys = ring ? block(ring->raw_keys) : nullptr,
            .checkpoints = saved ? Saved::part(saved->checkpoints, saved->checkpoint_starts, mix, s, h) : nullptr,
            .lse = saved ? Saved::part(saved->lse, saved->lse_starts, mix, s, h) : nullptr};
  });
  return o;
}

class FusedMix : public torch::autograd::Function<FusedMix> {
 public:
  static variable_list forward(torch::autograd::AutogradContext* context, const MixSettings& settings,
                               const std::vector<int64_t>& lengths, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const Optional& scalars, const Optional& cos, const Optional& sin,
                               const Optional& first, const Optional& second) {
    const auto tensor = [](const Optional& x) { return x.value_or(at::Tensor()); };
    const Mix mix(settings, {q, k, v, {tensor(cos), tensor(sin)}, lengths, {}, {}, tensor(scalars)});
    Saved saved(mix);
    saved.allocate(mix);
    std::vector<at::Tensor> states;
    for (const Optional& state : {first, second})
      if (state) states.push_back(state->clone(at::MemoryFormat::Contiguous));
    const at::Tensor o = run_forward(mix, states, nullptr, &saved);
    context->save_for_backward(
        {mix.q, mix.k, mix.v, tensor(cos), tensor(sin), saved.checkpoints, saved.lse, mix.scalars});
    save_settings(settings, lengths, *context);
    context->saved_data["trains_scalars"] = scalars && scalars->requires_grad();
    variable_list out = {o};
    out.insert(out.end(), states.begin(), states.end());
    return out;
  }

  static variable_list backward(torch::autograd::AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "fused_mix: differentiable once; for higher orders take the definition");
    const auto saved_tensors = context->get_saved_variables();
    const MixSettings settings = saved_settings(*context);
    const Mix mix(settings, {saved_tensors[0],
                             saved_tensors[1],
                             saved_tensors[2],
                             {saved_tensors[3], saved_tensors[4]},
                             saved_lengths(*context),
                             {},
                             {},
                             saved_tensors[7]});
    std::vector<at::Tensor> dstates = mix.zero_states();
    for (size_t i = 0; i < dstates.size(); ++i)
      if (grads[i + 1].defined()) dstates[i].copy_(grads[i + 1]);
    const at::Tensor grad_o = grads[0].defined() ? grads[0].contiguous() : at::zeros_like(mix.q);
    variable_list out = {{}, {}};
    const bool trains_scalars = context->saved_data["trains_scalars"].toBool();
    const variable_list inputs = run_backward(mix, saved_tensors[5], saved_tensors[6], grad_o, dstates, trains_scalars);
    out.insert(out.end(), inputs.begin(), inputs.end());
    out.insert(out.end(), 2, at::Tensor());  // cos, sin
    dstates.resize(2);
    out.insert(out.end(), dstates.begin(), dstates.end());
    return out;
  }

 private:
  static variable_list run_backward(const Mix& mix, const at::Tensor& checkpoints, const at::Tensor& lse,
                                    const at::Tensor& grad_o, const std::vector<at::Tensor>& dstates,
                                    bool trains_scalars) {
    const CpuKernels& kernels = cpu_kernels();
    const Saved saved(mix);
    const at::Tensor dq = at::empty_like(mix.q), dk = at::empty_like(mix.k), dv = at::empty_like(mix.v);
    const int64_t S = mix.sequences(), Hkv = mix.kv_heads(), G = mix.group();
    const at::Tensor d_scalars = trains_scalars ? at::empty({S, Hkv, kHeadScalars, G}, mix.wide()) : at::Tensor();
    mix.run(kernels.mix_backward_scratch, kernels.mix_backward, [&](int64_t s, int64_t h) -> MixBackward {
      const auto block = [&](size_t which) -> void* {
        if (which >= dstates.size()) return nullptr;
        const at::Tensor& x = dstates[which];
        return at_scalar(x, (s * mix.kv_heads() + h) * x.size(2) * x.size(3));
      };
      return {.checkpoints = Saved::part(checkpoints, saved.checkpoint_starts, mix, s, h),
              .lse = Saved::part(lse, saved.lse_starts, mix, s, h),
              .grad_o = at_scalar(grad_o, mix.offset(s, h, mix.group() * mix.D())),
              .dq = at_scalar(dq, mix.offset(s, h, mix.group() * mix.D())),
              .dk = at_scalar(dk, mix.offset(s, h, mix.D())),
              .dv = at_scalar(dv, mix.offset(s, h, mix.D())),
              .dstates = {block(0), block(1)},
              .d_scalars = trains_scalars ? at_scalar(d_scalars, (s * Hkv + h) * kHeadScalars * G) : nullptr};
    });
    return {dq, dk, dv, trains_scalars ? of_all_heads(d_scalars.sum(0)) : at::Tensor()};
  }

  // [Hkv, kHeadScalars, G] -> [kHeadScalars, H]
  static at::Tensor of_all_heads(const at::Tensor& d) {
    const int64_t Hkv = d.size(0), G = d.size(2);
    at::Tensor out = d.transpose(0, 1).reshape({kHeadScalars, Hkv * G}).clone();  // never a view of d
    for (const HeadScalar scalar : {kKeyScale, kLogGate}) {
      out[scalar].zero_();
      out[scalar].narrow(0, 0, Hkv).copy_(d.select(1, scalar).select(1, 0));
    }
    return out;
  }
};

// The kernels do not read float16.
MixInputs readable(MixInputs in) {
  if (in.q.scalar_type() != at::kHalf) return in;
  for (at::Tensor* x : {&in.q, &in.k, &in.v}) *x = x->to(at::kFloat);
  return in;
}

}  // namespace

MixOutputs fused_mix(const MixSettings& settings, const MixInputs& given) {
  const MixInputs in = readable(given);
  std::vector<at::Tensor> states = in.states.empty() ? Mix(settings, in).zero_states() : in.states;
  at::Tensor o;
  if (wants_gradient(in)) {
    states.resize(2);
    variable_list out =
        FusedMix::apply(settings, in.lengths, in.q, in.k, in.v, if_defined(in.scalars), if_defined(in.rotation.cos),
                        if_defined(in.rotation.sin), if_defined(states[0]), if_defined(states[1]));
    o = out[0];
    states.assign(out.begin() + 1, out.end());
  } else {
    for (at::Tensor& state : states) state = state.clone(at::MemoryFormat::Contiguous);
    o = run_forward(Mix(settings, in), states, nullptr, nullptr);
  }
  return {o.to(given.q.scalar_type()), states};
}

int64_t fused_mix_kept(const MixSettings& settings, int64_t heads, int64_t kv_heads, int64_t D,
                       const std::vector<int64_t>& lengths) {
  int64_t numbers = 0;
  MixHead head = mix_head(settings, /*h=*/0, kv_heads, heads / kv_heads, D);
  for (const int64_t length : lengths) {
    head.tokens = length;
    numbers += kept_states(head, kv_heads) + kept_log_sums(head, kv_heads);
  }
  return numbers;
}

at::Tensor fused_mix(const MixSettings& settings, const MixInputs& given, const std::vector<int64_t>& past,
                     LayerState& state) {
  const MixInputs in = readable(given);
  const Mix mix(settings, in, &past);
  if (settings.recurrence.structure && state.recurrent.empty()) state.recurrent = mix.zero_states();
  make_rings(settings, mix.sequences(), mix.kv_heads(), mix.D(), mix.wide(), state);
  return run_forward(mix, state.recurrent, &state, nullptr).to(given.q.scalar_type());
}

}  // namespace liger
