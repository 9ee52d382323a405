#include <ATen/ops/zeros.h>

#include <algorithm>

#include "nn/token_mixer.h"

namespace liger {
namespace {

// Makes room for `needed` tokens, doubling so that a token costs O(1) copies.
void reserve(at::Tensor& cache, int64_t needed, const at::Tensor& like) {
  const int64_t capacity = cache.defined() ? cache.size(1) : 0;
  if (needed <= capacity) return;
  at::Tensor larger =
      at::zeros({like.size(0), std::max(needed, 2 * capacity), like.size(2), like.size(3)}, like.options());
  if (cache.defined()) larger.narrow(1, 0, capacity).copy_(cache);
  cache = larger;
}

class SoftmaxAttention : public TokenMixer {
 public:
  SoftmaxAttention(const ModelConfig& config, int64_t layer, const at::TensorOptions& options)
      : TokenMixer(config, layer, options),
        limits_{.window = config.window_of(layer), .softcap = config.attention_softcap} {}

  bool attends_plainly() const override { return limits_.window == 0 && limits_.softcap == 0; }

  at::Tensor mix(const Projections& in, const MixerContext& context, LayerState* state) override {
    const at::Tensor &q = in.q, &k = in.k, &v = in.v;
    const Sequences& tokens = context.tokens;
    const at::Tensor queries = tokens.rows(rotate(q, rotation(context)));
    const at::Tensor keys = tokens.rows(rotate(k, rotation(context))), values = tokens.rows(v);
    if (!state) return tokens.packed(causal_attention(queries, keys, values, {}, limits_));

    const int64_t longest_past = *std::max_element(context.past.begin(), context.past.end());
    const int64_t needed = longest_past + tokens.max_length();
    reserve(state->keys, needed, keys);
    reserve(state->values, needed, values);
    for (int64_t s = 0; s < tokens.count(); ++s) {
      const int64_t length = tokens.lengths()[s];
      state->keys[s].narrow(0, context.past[s], length).copy_(keys[s].narrow(0, 0, length));
      state->values[s].narrow(0, context.past[s], length).copy_(values[s].narrow(0, 0, length));
    }
    if (longest_past == 0) return tokens.packed(causal_attention(queries, keys, values, {}, limits_));
    return tokens.packed(causal_attention(queries, state->keys.narrow(1, 0, needed), state->values.narrow(1, 0, needed),
                                          context.seen, limits_));
  }

 private:
  AttentionLimits limits_;
};

}  // namespace

std::shared_ptr<TokenMixer> make_softmax_attention(const ModelConfig& config, int64_t layer,
                                                   const at::TensorOptions& options) {
  return std::make_shared<SoftmaxAttention>(config, layer, options);
}

}  // namespace liger
