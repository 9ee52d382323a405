#include "liger/nn/attention_error.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "nn/decoder.h"

namespace liger {

at::Tensor attention_error(const CausalLM& model, const CausalLM& teacher, const Sequences& tokens) {
  const ModelConfig& config = model.config();
  LIGER_CHECK(!teacher.config().liger && teacher.config().num_hidden_layers == config.num_hidden_layers,
              "attention error: expected a teacher with softmax attention and ", config.num_hidden_layers, " layers");
  Decoder& taught = teacher.decoder();
  const MixerContext context = taught.context(tokens);
  at::Tensor hidden, total;
  int64_t layers = 0;
  {
    const at::NoGradGuard no_grad;
    hidden = taught.embed(tokens);
  }
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    DecoderLayer& layer = *taught.layers()[i];
    at::Tensor wanted, next;
    {
      const at::NoGradGuard no_grad;
      wanted = layer.attention().forward(layer.attention_input(hidden), context, nullptr);
      next = layer.after_attention(hidden, wanted);
    }
    const at::Tensor read = std::exchange(hidden, next);
    if (config.is_softmax_layer(i)) continue;
    // Its own norm: gains may be folded into its projections.
    DecoderLayer& learning = *model.decoder().layers()[i];
    const at::Tensor written = learning.attention().forward(learning.attention_input(read), context, nullptr);
    const auto type = wide_type(written);
    const at::Tensor error = (written - wanted).to(type).square().sum() / wanted.to(type).square().sum();
    total = total.defined() ? total + error : error;
    ++layers;
  }
  LIGER_CHECK(layers > 0, "attention error: expected linearized layers, and this model has none");
  return total / static_cast<double>(layers);
}

}  // namespace liger
