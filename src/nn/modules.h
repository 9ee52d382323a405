#pragma once

#include <torch/nn/module.h>

#include <string>

#include "liger/models/family.h"
#include "liger/nn/lora.h"

namespace liger {

class RmsNorm : public torch::nn::Module {
 public:
  RmsNorm(const ModelConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x);
  void tie(const RmsNorm& to);  ///< as Linear::tie()
  at::Tensor weight;

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

/// down(act(gate(x)) * up(x)).
class Mlp : public torch::nn::Module {
 public:
  Mlp(const ModelConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x);
  void tie(const Mlp& to);

  const Linear& gate_proj() const { return *gate_proj_; }
  const Linear& up_proj() const { return *up_proj_; }
  const Linear& down_proj() const { return *down_proj_; }
  const std::string& activation() const { return act_; }

 private:
  std::string act_;
  std::shared_ptr<Linear> gate_proj_, up_proj_, down_proj_;
};

}  // namespace liger
