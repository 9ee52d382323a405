#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "liger/core/model_config.h"

namespace liger {

/// Which layers of a family see the last keys only, and how its config.json says so [sliding_window].
enum class Windows {
  kNone,        ///< none does
  kAll,         ///< all, unless sliding_window is null
  kUpper,       ///< those from max_window_layers on, where use_sliding_window; or as layer_types says
  kAlternating  ///< all but every n-th (Family::window_pattern); or as layer_types says
};

/// What makes one model family differ from another, as data. Modules are called as in Hugging Face's code.
struct Family {
  const char* model_type;          ///< config.json "model_type": "llama"
  const char* architecture;        ///< config.json "architectures": "LlamaForCausalLM"
  bool layer_norm = false;         ///< norms are LayerNorm with a bias instead of RMSNorm
  bool norm_adds_one = false;      ///< RMSNorm multiplies by (1 + weight), in float32 before the cast
  bool scales_embeddings = false;  ///< embeddings times sqrt(hidden_size), rounded to the weights' dtype
  bool tied_by_default = false;    ///< tie_word_embeddings when config.json does not say
  const char* hidden_act;          ///< activation of the MLP when config.json does not say
  const char* hidden_act_key = "hidden_act";
  bool ignores_hidden_act = false;  ///< old files say "gelu" and mean `hidden_act`
  const char* norm_eps_key = "rms_norm_eps";
  double norm_eps = 1e-6;          ///< when config.json does not say
  bool biases = false;             ///< of linear modules, when config.json does not say
  bool parallel_residual = false;  ///< use_parallel_residual when config.json does not say
  bool input_biases = false;       ///< projections of queries, keys and values have biases, and nothing else ever does
  bool query_key_norms = false;    ///< RMSNorm of each head's query and key, before RoPE: "q_norm" and "k_norm"
  bool output_norms = false;       ///< what attention and MLP give is normed as well, so that a layer has four norms
  int64_t head_dim = 0;            ///< when config.json does not say; 0: hidden_size / num_attention_heads
  double rotary_share = 1;  ///< of a head's channels, those that RoPE turns [rotary_pct]; 1: there is no such key

  Windows windows = Windows::kNone;
  int64_t window_pattern = 0;       ///< of kAlternating
  bool window_pattern_key = false;  ///< config.json may say another [sliding_window_pattern]
  int64_t sliding_window = 4096;    ///< when config.json does not say
  double rope_theta = 10000;        ///< when config.json does not say
  double local_rope_theta = 0;  ///< the same of layers with a window, which have a RoPE of their own; 0: they do not
  double query_pre_attn_scalar = 0;                 ///< when config.json does not say; 0: there is no such key
  bool attention_softcap_key = false;               ///< attn_logit_softcapping is applied
  bool logit_softcap_key = false;                   ///< final_logit_softcapping is applied
  double attention_softcap = 0, logit_softcap = 0;  ///< when config.json does not say

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
  /// The norm that the MLP reads; the other of a layer whose outputs are normed too follows its attention.
  const char* mlp_norm() const { return output_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm"; }
  /// Of a layer, beyond "input_layernorm" and "post_attention_layernorm"; sorted.
  std::vector<std::string> more_norms() const;
  bool gated_mlp() const { return mlp_inputs.size() == 2; }
  std::string layers() const { return std::string(model) + ".layers."; }  ///< what a layer's number stands after
  std::string embedding_weight() const { return std::string(model) + "." + embedding + ".weight"; }
  std::string head_weight() const { return std::string(head) + ".weight"; }
};

/// All families, for messages and tests.
const std::vector<const Family*>& families();
/// nullptr if unknown.
const Family* find_family(const std::string& model_type);

/// config.json's "layer_types": "sliding_attention" or "full_attention" for each stored layer.
OrderedJson layer_types_json(const ModelConfig& config);

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
