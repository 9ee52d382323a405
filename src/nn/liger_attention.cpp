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
        numbers_(head_scalars(config, layer).to(c10::typeMetaToScalarType(options.dtype()) == at::kDouble ? at::kDouble : at::kFloat)) {
    if (!config.liger->heads.empty()) add_head_scalars();
  }
  void add_head_scalars() override {
    if (!mixer_ && settings_.recurrence.structure)
      mixer_ = register_module(kMixerModule, std::make_shared<HeadScalars>(numbers_.to(parameters()[0].device())));
  }

 protected:
  at::Tensor mix(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const MixerContext& context,
                 LayerState* state) override {
    const MixInputs in = {q, k, v, context.rotation, context.tokens.lengths(), {}, context.tokens.starts(),
                          mixer_ ? mixer_->weight : at::Tensor()};
    if (!runs_fused(backend_, settings_, in)) {
      if (state) return reference_mix(settings_, in, context.past, *state, ScanMethod::kChunked);
      return reference_mix(settings_, in, ScanMethod::kChunked).o;
    }
    if (q.is_cpu()) return state ? fused_mix(settings_, in, context.past, *state) : fused_mix(settings_, in).o;
    return state ? cuda_mix(settings_, in, context.past, context.seen, *state) : cuda_mix(settings_, in).o;
  }

 private:
  Backend backend_;
  MixSettings settings_;
  at::Tensor numbers_;
  std::shared_ptr<HeadScalars> mixer_;  // null: the defaults
};

}  // namespace

std::shared_ptr<TokenMixer> make_liger_attention(const ModelConfig& config, int64_t layer,
                                                 const at::TensorOptions& options) {
  return std::make_shared<LigerAttention>(config, layer, options);
}

}  // namespace liger
