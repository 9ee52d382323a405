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
  at::Tensor input_norm, mlp_norm;                    // float32
  at::Tensor attention_output_norm, mlp_output_norm;  // the same; undefined where outputs are not normed
  at::Tensor query_norm, key_norm;                    // [D]; undefined without them
  StepLinear q, k, v, o, gate, up, down;
};

/// A model's weights in the order in which a token meets them.
struct StepWeights {
  StepLinear embedding, head;
  std::vector<StepLayer> layers;
  at::Tensor norm;  // float32
  std::vector<std::vector<float>>
      frequencies;  // of each RoPE: the model's, and that of sliding layers if they have one
  float embedding_scale = 1;
  int64_t largest_rank = 0;  // of an adapter's pairs; 0 = there are none

  explicit StepWeights(const CausalLM& model);
  /// Norms and scales in place what `heads` heads of D were projected to, as `weight` (may be undefined) and factor
  /// say.
  void finish_heads(const at::Tensor& weight, float factor, int64_t heads, float* x) const;

  int64_t D;
  float norm_eps, query_factor;
  bool norm_adds_one;
};

}  // namespace liger
