#include "nn/modules.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/scalar_tensor.h>

#include <cmath>

#include "liger/ops/ops.h"

namespace liger {

Norm::Norm(const ModelConfig& config, const at::TensorOptions& options, int64_t channels)
    : eps_(config.norm_eps), adds_one_(config.family->norm_adds_one) {
  const int64_t n = channels == 0 ? config.hidden_size : channels;
  weight = register_parameter("weight", at::empty({n}, options));
  if (config.family->layer_norm) bias = register_parameter("bias", at::empty({n}, options));
}

at::Tensor Norm::forward(const at::Tensor& x) {
  return bias.defined() ? at::layer_norm(x, {x.size(-1)}, weight, bias, eps_) : rms_norm(x, weight, eps_, adds_one_);
}

void Norm::tie(const Norm& to) {
  parameters_.clear();
  weight = to.weight;
  bias = to.bias;
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
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    return register_module(name, std::make_shared<Linear>(in, out, config.mlp_bias, options));
  };
  for (const std::string& name : config.family->mlp_inputs)
    inputs_.push_back(linear(name, config.hidden_size, config.intermediate_size));
  output_ = linear(config.family->mlp_output, config.intermediate_size, config.hidden_size);
}

void Mlp::tie(const Mlp& to, bool with_biases) {
  for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i]->tie(*to.inputs_[i], with_biases);
  output_->tie(*to.output_, with_biases);
}

at::Tensor Mlp::activate(const std::vector<at::Tensor>& projected) const {
  return projected.size() == 2 ? gated_activation(act_, projected[0], projected[1]) : activation(act_, projected[0]);
}

at::Tensor Mlp::forward(const at::Tensor& x) {
  std::vector<at::Tensor> projected;
  for (const auto& input : inputs_) projected.push_back(input->forward(x));
  return output_->forward(activate(projected));
}

}  // namespace liger
