#include "nn/cuda_choices.h"

#include <ATen/ops/empty_like.h>

#include "decode_choices.h"
#include "liger/error.h"
#include "nn/cuda_calls.h"

namespace liger {
namespace {

kernels::TwoFeatures two_features(FeatureMap map) {
  switch (map) {
    case FeatureMap::kSoftmaxPair: return kernels::TwoFeatures::kSoftmax;
    case FeatureMap::kExpPair: return kernels::TwoFeatures::kExp;
    default: return kernels::TwoFeatures::kNone;
  }
}
kernels::Divisor divisor(Normalizer normalizer) {
  switch (normalizer) {
    case Normalizer::kAtLeastOne: return kernels::Divisor::kAtLeastOne;
    case Normalizer::kOwn: return kernels::Divisor::kOwn;
    case Normalizer::kShared: return kernels::Divisor::kShared;
    default: return kernels::Divisor::kNone;
  }
}

// All but what points to tensors.
kernels::DecodeChoices arguments(const MixSettings& settings, const MixInputs& in) {
  const Structure& s = *settings.recurrence.structure;
  kernels::DecodeChoices args = {};
  args.type = kernel_type(in.q.scalar_type());
  args.sequences = std::ssize(in.lengths);
  args.H = in.q.size(1);
  args.Hkv = in.k.size(1);
  args.D = in.q.size(2);
  args.two_features = two_features(s.key);
  args.divisor = divisor(s.normalizer);
  args.rotates_features = settings.rotates_features;
  args.beyond_window = settings.beyond_window;
  args.window = settings.window;
  args.sinks = settings.sinks;
  args.share = static_cast<float>(settings.window_share);
  return args;
}

}  // namespace

std::string cuda_choices_step_refuses(const MixSettings& settings, const MixInputs& in) {
  const Structure& s = *settings.recurrence.structure;
  if (!is_one_scan(s) || s.delta_rule) return cat("the CUDA kernels have ", s.name, " as in the paper only");
  const char* reason = kernels::decode_choices_refuses(arguments(settings, in));
  return reason ? reason : "";
}

std::optional<at::Tensor> cuda_choices_step(const MixSettings& settings, const MixInputs& in, const at::Tensor& seen,
                                            LayerState& state) {
  if (!cuda_choices_step_refuses(settings, in).empty()) return {};
  kernels::DecodeChoices args = arguments(settings, in);
  const at::Tensor q = in.q.contiguous(), k = in.k.contiguous(), v = in.v.contiguous(), o = at::empty_like(q);
  args.q = q.const_data_ptr();
  args.k = k.const_data_ptr();
  args.v = v.const_data_ptr();
  args.o = o.mutable_data_ptr();
  args.features = kernel_features(settings.recurrence, args.Hkv, q.device());
  state.recurrent[0] = state.recurrent[0].contiguous();
  args.state = state.recurrent[0].mutable_data_ptr<float>();
  at::Tensor scalars, cos, sin;
  if (in.scalars.defined()) {
    scalars = in.scalars.to(at::kFloat).contiguous();
    args.scalars = scalars.const_data_ptr<float>();
  }
  if (settings.rotates()) {
    cos = in.rotation.cos.contiguous();
    sin = in.rotation.sin.contiguous();
    args.cos = cos.const_data_ptr<float>();
    args.sin = sin.const_data_ptr<float>();
  }
  if (settings.window > 0) {
    args.ring_keys = state.keys.mutable_data_ptr<float>();
    args.ring_values = state.values.mutable_data_ptr<float>();
    args.seen = seen.const_data_ptr<int64_t>();
  }
  if (settings.beyond_window) args.ring_raw_keys = state.raw_keys.mutable_data_ptr<float>();
  check_kernel(kernels::decode_choices(args, kernel_stream(q)), q);
  return o;
}

}  // namespace liger
