#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "liger/core/model_config.h"

namespace liger {

/// What makes one model family differ from another, as data. Names of modules are Hugging Face's in all of them.
struct Family {
  const char* model_type;    ///< config.json "model_type": "llama"
  const char* architecture;  ///< config.json "architectures": "LlamaForCausalLM"
  bool norm_adds_one;        ///< RMSNorm multiplies by (1 + weight), in float32 before the cast, instead of by weight
  bool scales_embeddings;    ///< embeddings times sqrt(hidden_size), rounded to the weights' dtype
  bool tied_by_default;      ///< tie_word_embeddings when config.json does not say
  const char* hidden_act;    ///< activation of the gated MLP when config.json does not say
  bool ignores_hidden_act;   ///< old files say "gelu" and mean `hidden_act`
  double rms_norm_eps;       ///< when config.json does not say
};

/// All families, for messages and tests.
const std::vector<const Family*>& families();
/// nullptr if unknown.
const Family* find_family(const std::string& model_type);

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};
/// Every tensor a checkpoint of this model must have; of layers that run several times there is one. A tied model has
/// no "lm_head.weight" (one that is stored all the same must equal the embedding, and is not listed here).
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);
/// Whether a tensor of this name belongs to a norm within a layer.
bool is_layer_norm(const std::string& name);

}  // namespace liger
