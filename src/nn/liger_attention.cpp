#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "liger/ops/linear.h"
#include "nn/choose_mix.h"
#include "nn/cuda_mix.h"
#include "nn/mix_settings.h"
#include "nn/reference_mix.h"
#include "nn/token_mixer.h"

namespace liger {
namespace {

// What a layer has beyond its projections, float32 or wider, as what PEFT calls a module to save.
class MixerParameters : public torch::nn::Module {
 public:
  MixerParameters(const ModelConfig& config, int64_t layer, const at::Tensor& numbers) {
    weight = register_parameter("weight", numbers);
    for (const auto& [name, shape] : mixer_parameters(config)) {
      if (name == "weight") continue;
      at::Tensor& tensor = name == "gate" ? gate : name == "query_map" ? query_map : key_map;
      tensor = register_parameter(name, at::zeros(shape, numbers.options()));
    }
    if (!gate.defined()) return;
    const at::NoGradGuard no_grad;  // the same at each load: nothing else says what it was
    const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(layer));
    gate.normal_(0, 1 / std::sqrt(static_cast<double>(config.hidden_size)), generator);
  }
  at::Tensor weight;              // [kHeadScalars, H]
  at::Tensor query_map, key_map;  // MixInputs
  at::Tensor gate;                // [Hkv D, hidden_size]
};

// o = mix * window softmax + (1 - mix) * recurrence, over the same q, k, v (arXiv 2503.01496, equation 10).
// A branch of weight zero is not computed.
class LigerAttention : public TokenMixer {
 public:
  LigerAttention(const ModelConfig& config, int64_t layer, const at::TensorOptions& options)
      : TokenMixer(config, layer, options),
        config_(config),
        layer_(layer),
        settings_(mix_settings(config, layer)),
        numbers_(head_scalars(config, layer)
                     .to(c10::typeMetaToScalarType(options.dtype()) == at::kDouble ? at::kDouble : at::kFloat)) {
    if (!config.liger->heads.empty() || config.liger->has_new_parameters()) add_head_scalars();
  }
  void add_head_scalars() override {
    if (mixer_ || !settings_.recurrence.structure) return;
    mixer_ = std::make_shared<MixerParameters>(config_, layer_, numbers_.to(device()));
    register_module(kMixerModule, mixer_);
  }

  Projections project(const at::Tensor& x) override {
    Projections out = TokenMixer::project(x);
    const std::vector<int64_t> shape = {-1, out.k.size(1), config_.group_size(), out.k.size(2)};
    switch (config_.liger->gate) {
      case GateSource::kKey: break;
      case GateSource::kQuery: out.gate = out.q.view(shape).mean(2); break;
      case GateSource::kValue: out.gate = out.v; break;
      case GateSource::kRandom:
        out.gate =
            liger::linear(x.to(mixer_->gate.scalar_type()), mixer_->gate).view(out.k.sizes()).to(x.scalar_type());
    }
    return out;
  }

  at::Tensor mix(const Projections& x, const MixerContext& context, LayerState* state) override {
    MixInputs in = mix_inputs(*this, x, context, mixer_ ? mixer_->weight : at::Tensor());
    if (mixer_) in.query_map = mixer_->query_map, in.key_map = mixer_->key_map;
    if (!state) return run_mix(config_.backend, settings_, in).o;
    if (!runs_fused(config_.backend, settings_, in, /*continues=*/true))
      return reference_mix(settings_, in, context.past, *state, ScanMethod::kChunked);
    return x.q.is_cpu() ? fused_mix(settings_, in, context.past, *state)
                        : cuda_mix(settings_, in, context.past, context.seen, *state);
  }

 private:
  ModelConfig config_;
  int64_t layer_;
  MixSettings settings_;
  at::Tensor numbers_;
  std::shared_ptr<MixerParameters> mixer_;  // null: the defaults
};

}  // namespace

MixInputs mix_inputs(const TokenMixer& mixer, const Projections& x, const MixerContext& context,
                     const at::Tensor& scalars) {
  return {x.q,     x.k,   x.v, mixer.rotation(context), context.tokens.lengths(), {}, context.tokens.starts(),
          scalars, x.gate};
}

std::shared_ptr<TokenMixer> make_liger_attention(const ModelConfig& config, int64_t layer,
                                                 const at::TensorOptions& options) {
  return std::make_shared<LigerAttention>(config, layer, options);
}

}  // namespace liger
