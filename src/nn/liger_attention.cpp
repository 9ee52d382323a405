#include "nn/choose_mix.h"
#include "nn/cuda_mix.h"
#include "nn/mix_settings.h"
#include "nn/reference_mix.h"
#include "nn/token_mixer.h"

namespace liger {
namespace {

// The numbers of a layer's heads, [kHeadScalars, H], as what PEFT calls a module to save.
class HeadScalars : public torch::nn::Module {
 public:
  explicit HeadScalars(const at::Tensor& numbers) { weight = register_parameter("weight", numbers); }
  at::Tensor weight;
};

// o = mix * window softmax + (1 - mix) * recurrence, over the same q, k, v (arXiv 2503.01496, equation 10).
// A branch of weight zero is not computed.
class LigerAttention : public TokenMixer {
 public:
  LigerAttention(const ModelConfig& config, int64_t layer, const at::TensorOptions& options)
      : TokenMixer(config, options),
        backend_(config.backend),
        settings_(mix_settings(config, layer)),
        numbers_(head_scalars(config, layer)
                     .to(c10::typeMetaToScalarType(options.dtype()) == at::kDouble ? at::kDouble : at::kFloat)) {
    if (!config.liger->heads.empty()) add_head_scalars();
  }
  void add_head_scalars() override {
    if (!mixer_ && settings_.recurrence.structure)
      mixer_ = register_module(kMixerModule, std::make_shared<HeadScalars>(numbers_.to(parameters()[0].device())));
  }

  at::Tensor mix(const Projections& x, const MixerContext& context, LayerState* state) override {
    const MixInputs in = mix_inputs(x, context, mixer_ ? mixer_->weight : at::Tensor());
    if (!state) return run_mix(backend_, settings_, in).o;
    if (!runs_fused(backend_, settings_, in))
      return reference_mix(settings_, in, context.past, *state, ScanMethod::kChunked);
    return x.q.is_cpu() ? fused_mix(settings_, in, context.past, *state)
                        : cuda_mix(settings_, in, context.past, context.seen, *state);
  }

 private:
  Backend backend_;
  MixSettings settings_;
  at::Tensor numbers_;
  std::shared_ptr<HeadScalars> mixer_;  // null: the defaults
};

}  // namespace

MixInputs mix_inputs(const Projections& x, const MixerContext& context, const at::Tensor& scalars) {
  return {x.q, x.k, x.v, context.rotation, context.tokens.lengths(), {}, context.tokens.starts(), scalars};
}

std::shared_ptr<TokenMixer> make_liger_attention(const ModelConfig& config, int64_t layer,
                                                 const at::TensorOptions& options) {
  return std::make_shared<LigerAttention>(config, layer, options);
}

}  // namespace liger
