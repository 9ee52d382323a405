#pragma once

#include <vector>

#include "cpu/kernels.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"

namespace liger {

/// A linear map as the kernels read it: the tensors it points into are kept.
struct StepLinear {
  WeightView view = {};
  at::Tensor weight, bias, lora_a;
  at::Tensor lora_b;  // transposed, [r, out]
  float lora_scale = 0;

  StepLinear() = default;
  explicit StepLinear(const Linear& linear);
  explicit StepLinear(const at::Tensor& weight);
  int64_t rank() const { return lora_a.defined() ? lora_a.size(0) : 0; }
  LowRankView upper() const { return {lora_b.const_data_ptr<float>(), lora_b.size(0), lora_b.size(1), lora_scale}; }
};

struct StepLayer {
  at::Tensor input_norm, post_attention_norm;  // float32
  StepLinear q, k, v, o, gate, up, down;
};

/// A model's weights in the order in which a token meets them.
struct StepWeights {
  StepLinear embedding, head;
  std::vector<StepLayer> layers;
  at::Tensor norm;                 // float32
  std::vector<float> frequencies;  // of RoPE
  float embedding_scale = 1;
  int64_t largest_rank = 0;  // of an adapter's pairs; 0 = there are none

  explicit StepWeights(const CausalLM& model);
};

}  // namespace liger
