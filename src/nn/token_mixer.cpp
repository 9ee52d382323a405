#include "nn/token_mixer.h"

#include "liger/models/family.h"

namespace liger {

TokenMixer::TokenMixer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options)
    : heads_(config.num_attention_heads),
      kv_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      query_factor_(config.query_factor()),
      local_rope_(config.has_local_rope(layer)) {
  const Family& family = *config.family;
  const int64_t q = heads_ * head_dim_, kv = kv_heads_ * head_dim_, rows[] = {q, kv, kv};
  const auto linear = [&](const std::string& name, int64_t in, int64_t out, bool bias) {
    return register_module(name, std::make_shared<Linear>(in, out, bias, options));
  };
  for (size_t i = 0; i < family.attention_inputs.size(); ++i)
    inputs_.push_back(linear(family.attention_inputs[i], config.hidden_size,
                             family.fused_attention() ? q + 2 * kv : rows[i], config.attention_bias));
  output_ = linear(family.attention_output, q, config.hidden_size, config.output_bias());
  if (!family.query_key_norms) return;
  q_norm_ = register_module("q_norm", std::make_shared<Norm>(config, options, head_dim_));
  k_norm_ = register_module("k_norm", std::make_shared<Norm>(config, options, head_dim_));
}

void TokenMixer::tie(const TokenMixer& to, bool with_biases, bool with_norms) {
  for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i]->tie(*to.inputs_[i], with_biases);
  output_->tie(*to.output_, with_biases);
  if (!q_norm_ || !with_norms) return;
  q_norm_->tie(*to.q_norm_);
  k_norm_->tie(*to.k_norm_);
}

Projections TokenMixer::project(const at::Tensor& x) {
  std::vector<at::Tensor> projected;
  for (const auto& input : inputs_) projected.push_back(input->forward(x));
  return normed(by_head(projected));
}

Projections TokenMixer::normed(Projections in) const {
  if (q_norm_) {
    in.q = q_norm_->forward(in.q);
    in.k = k_norm_->forward(in.k);
  }
  if (query_factor_ != 1) in.q = in.q * query_factor_;
  return in;
}

Projections TokenMixer::by_head(const std::vector<at::Tensor>& projected) const {
  if (projected.size() == 1) {  // each head's [q | k | v]
    const at::Tensor all = projected[0].view({-1, heads_, 3, head_dim_});
    const auto part = [&](int64_t which) { return all.select(2, which).contiguous(); };
    return {part(0), part(1), part(2), at::Tensor()};
  }
  const auto split = [&](const at::Tensor& y, int64_t heads) { return y.view({-1, heads, head_dim_}); };
  return {split(projected[0], heads_), split(projected[1], kv_heads_), split(projected[2], kv_heads_), at::Tensor()};
}

at::Tensor TokenMixer::output(const at::Tensor& mixed) {
  return output_->forward(mixed.reshape({-1, heads_ * head_dim_}));
}

std::shared_ptr<TokenMixer> make_token_mixer(const ModelConfig& config, int64_t layer,
                                             const at::TensorOptions& options) {
  return config.is_softmax_layer(layer) ? make_softmax_attention(config, layer, options)
                                        : make_liger_attention(config, layer, options);
}

}  // namespace liger
