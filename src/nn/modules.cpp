#include "nn/modules.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <cmath>

#include "liger/ops/ops.h"

namespace liger {

RmsNorm::RmsNorm(const ModelConfig& config, const at::TensorOptions& options)
    : eps_(config.rms_norm_eps), adds_one_(config.family->norm_adds_one) {
  weight = register_parameter("weight", at::empty({config.hidden_size}, options));
}

at::Tensor RmsNorm::forward(const at::Tensor& x) { return rms_norm(x, weight, eps_, adds_one_); }

void RmsNorm::tie(const RmsNorm& to) {
  parameters_.clear();
  weight = to.weight;
}

Embedding::Embedding(const ModelConfig& config, const at::TensorOptions& options)
    : scale_(config.family->scales_embeddings ? std::sqrt(static_cast<double>(config.hidden_size)) : 1.0) {
  weight = register_parameter("weight", at::empty({config.vocab_size, config.hidden_size}, options));
}

at::Tensor Embedding::forward(const at::Tensor& ids) {
  const at::Tensor x = at::embedding(weight, ids);
  // The factor is rounded to the weights' dtype first: 45.25, not 45.2548, for 2048 in bfloat16.
  return scale_ == 1.0 ? x : x * at::scalar_tensor(scale_, x.options());
}

Mlp::Mlp(const ModelConfig& config, const at::TensorOptions& options) : act_(config.hidden_act) {
  const int64_t D = config.hidden_size, I = config.intermediate_size;
  gate_proj_ = register_module("gate_proj", std::make_shared<Linear>(D, I, config.mlp_bias, options));
  up_proj_ = register_module("up_proj", std::make_shared<Linear>(D, I, config.mlp_bias, options));
  down_proj_ = register_module("down_proj", std::make_shared<Linear>(I, D, config.mlp_bias, options));
}

void Mlp::tie(const Mlp& to) {
  gate_proj_->tie(*to.gate_proj_);
  up_proj_->tie(*to.up_proj_);
  down_proj_->tie(*to.down_proj_);
}

at::Tensor Mlp::forward(const at::Tensor& x) {
  return down_proj_->forward(gated_activation(act_, gate_proj_->forward(x), up_proj_->forward(x)));
}

}  // namespace liger
