#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "liger/models/family.h"
#include "liger/nn/lora.h"

namespace liger {

/// RMSNorm, or LayerNorm with a bias, as the family has it; of `channels`, the hidden state's if it is not said.
class Norm : public torch::nn::Module {
 public:
  Norm(const ModelConfig& config, const at::TensorOptions& options, int64_t channels = 0);
  at::Tensor forward(const at::Tensor& x);
  void tie(const Norm& to);  ///< as Linear::tie()
  at::Tensor weight, bias;   ///< the bias is LayerNorm's

 private:
  double eps_;
  bool adds_one_;
};

class Embedding : public torch::nn::Module {
 public:
  Embedding(const ModelConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& ids);  ///< [N] -> [N, hidden_size]
  at::Tensor weight;

 private:
  double scale_;  // 1 = none
};

/// down(act(gate(x)) * up(x)), or down(act(up(x))) in a family without a gate.
class Mlp : public torch::nn::Module {
 public:
  Mlp(const ModelConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x);
  void tie(const Mlp& to, bool with_biases);

  // Its parts.
  const std::vector<std::shared_ptr<Linear>>& inputs() const { return inputs_; }  ///< gate and up, or up
  const Linear& output() const { return *output_; }
  at::Tensor activate(const std::vector<at::Tensor>& projected) const;  ///< what inputs() gave

 private:
  std::string act_;
  std::vector<std::shared_ptr<Linear>> inputs_;
  std::shared_ptr<Linear> output_;
};

}  // namespace liger
