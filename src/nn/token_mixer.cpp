#include "nn/token_mixer.h"

namespace liger {

TokenMixer::TokenMixer(const ModelConfig& config, const at::TensorOptions& options)
    : heads_(config.num_attention_heads), kv_heads_(config.num_key_value_heads), head_dim_(config.head_dim) {
  const auto linear = [&](const char* name, int64_t in, int64_t out) {
    return register_module(name, std::make_shared<Linear>(in, out, config.attention_bias, options));
  };
  q_proj_ = linear("q_proj", config.hidden_size, heads_ * head_dim_);
  k_proj_ = linear("k_proj", config.hidden_size, kv_heads_ * head_dim_);
  v_proj_ = linear("v_proj", config.hidden_size, kv_heads_ * head_dim_);
  o_proj_ = linear("o_proj", heads_ * head_dim_, config.hidden_size);
}

void TokenMixer::tie(const TokenMixer& to) {
  q_proj_->tie(*to.q_proj_);
  k_proj_->tie(*to.k_proj_);
  v_proj_->tie(*to.v_proj_);
  o_proj_->tie(*to.o_proj_);
}

Projections TokenMixer::project(const at::Tensor& x) {
  return by_head(q_proj_->forward(x), k_proj_->forward(x), v_proj_->forward(x));
}

Projections TokenMixer::by_head(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
  const auto split = [&](const at::Tensor& y, int64_t heads) { return y.view({-1, heads, head_dim_}); };
  return {split(q, heads_), split(k, kv_heads_), split(v, kv_heads_), at::Tensor()};
}

at::Tensor TokenMixer::output(const at::Tensor& mixed) {
  return o_proj_->forward(mixed.reshape({-1, heads_ * head_dim_}));
}

std::shared_ptr<TokenMixer> make_token_mixer(const ModelConfig& config, int64_t layer,
                                             const at::TensorOptions& options) {
  return config.is_softmax_layer(layer) ? make_softmax_attention(config, options)
                                        : make_liger_attention(config, layer, options);
}

}  // namespace liger
