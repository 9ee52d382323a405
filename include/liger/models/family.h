#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "liger/core/model_config.h"

namespace liger {

/// What makes one model family differ from another, as data. Modules are called as in Hugging Face's code.
struct Family {
  const char* model_type;           ///< config.json "model_type": "llama"
  const char* architecture;         ///< config.json "architectures": "LlamaForCausalLM"
  bool layer_norm = false;          ///< norms are LayerNorm with a bias instead of RMSNorm
  bool norm_adds_one = false;       ///< RMSNorm multiplies by (1 + weight), in float32 before the cast
  bool scales_embeddings = false;   ///< embeddings times sqrt(hidden_size), rounded to the weights' dtype
  bool tied_by_default = false;     ///< tie_word_embeddings when config.json does not say
  const char* hidden_act;           ///< activation of the MLP when config.json does not say
  bool ignores_hidden_act = false;  ///< old files say "gelu" and mean `hidden_act`
  const char* norm_eps_key = "rms_norm_eps";
  double norm_eps = 1e-6;          ///< when config.json does not say
  bool biases = false;             ///< of linear modules, when config.json does not say
  bool parallel_residual = false;  ///< use_parallel_residual when config.json does not say
  double rotary_share = 1;  ///< of a head's channels, those that RoPE turns [rotary_pct]; 1: there is no such key

  // Names of modules.
  const char* model = "model";
  const char* embedding = "embed_tokens";
  const char* final_norm = "norm";
  const char* head = "lm_head";
  const char* attention = "self_attn";
  /// Of queries, keys and values; or one of all, whose rows are those of each head's query, key and value in turn.
  std::vector<std::string> attention_inputs = {"q_proj", "k_proj", "v_proj"};
  const char* attention_output = "o_proj";
  std::vector<std::string> mlp_inputs = {"gate_proj", "up_proj"};  ///< or one, of an MLP without a gate
  const char* mlp_output = "down_proj";

  bool fused_attention() const { return attention_inputs.size() == 1; }
  bool gated_mlp() const { return mlp_inputs.size() == 2; }
  std::string layers() const { return std::string(model) + ".layers."; }  ///< what a layer's number stands after
  std::string embedding_weight() const { return std::string(model) + "." + embedding + ".weight"; }
  std::string head_weight() const { return std::string(head) + ".weight"; }
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
/// no weight of the head (one that is stored all the same must equal the embedding, and is not listed here).
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config);
/// Whether a tensor of this name belongs to a norm within a layer; whether it is the bias of a linear module there.
bool is_layer_norm(const std::string& name);
bool is_layer_bias(const std::string& name);
/// The layer and the name within it: 3 and "mlp.up_proj.weight" of "model.layers.3.mlp.up_proj.weight"; absent for what
/// belongs to no layer.
std::optional<std::pair<int64_t, std::string>> layer_and_name(const std::string& name);

}  // namespace liger
