#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "liger/core/backend.h"
#include "liger/core/head_scalars.h"
#include "liger/core/recursion.h"
#include "liger/core/structure.h"
#include "liger/error.h"
#include "liger/io/json.h"

namespace liger {

struct Family;  // models/family.h: what makes Llama differ from Gemma, as data

/// Rotary position embedding: angle of pair i at position p is p * theta^(-2i/d), scaled by `type`, where d are the
/// channels that turn.
struct RopeConfig {
  enum class Type {
    kDefault,
    kLinear,  ///< every frequency divided by `factor`
    kLlama3   ///< Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth blend between
  };
  Type type = Type::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 8192;
};

/// What a decay is read from, after the family's norms of queries and keys. LibTorch's operators run all but the key.
enum class GateSource {
  kKey,    ///< the projected key before RoPE, normed where the family norms keys
  kQuery,  ///< the projected queries, the mean of those that share a key
  kValue,  ///< the projected value
  kRandom  ///< a projection of its own, from the layer's input: new parameters, drawn when the model is made
};

/// The structure without a recurrence: the softmax branch makes up the layer.
inline constexpr const char* kWindowOnly = "swa";

/// The "liger" object of config.json: what a linearized layer is made of. The defaults are those of the released
/// Liger-GLA checkpoints (arXiv 2503.01496), whose code has them as constants.
struct LigerConfig {
  /// The name of one of structures() (core/structure.h).
  std::string recurrence = "gla";
  /// Keys a query sees in the softmax branch, itself included; 0 = there is no softmax branch. The released
  /// checkpoints see 65 (an argument of 64 that counts the keys *before* the query); the paper's equation 10 says 64.
  int64_t window = 65;
  /// First tokens of the sequence that stay visible to every query of the softmax branch.
  int64_t sinks = 0;
  /// o = mix * softmax branch + (1 - mix) * recurrence, in [0, 1]. Of no meaning unless the layer has both.
  double mix = 0.5;
  /// Divides the log-decay, as in g = logsigmoid(k) / gate_divisor, where the structure has a divisor.
  double gate_divisor = 16.0;
  /// Layers that stay softmax attention over the whole sequence, ascending.
  std::vector<int64_t> softmax_layers = {};

  // Beyond the paper; the defaults are its layers.
  std::optional<FeatureMap> features = {};  ///< of queries and keys; absent = the structure's
  /// Of single layers, [layers], in place of `features`; what it says of a softmax layer is of no meaning.
  std::vector<FeatureMap> layer_features = {};
  std::optional<Normalizer> normalizer = {};  ///< kNone, kOwn or kShared; absent = the structure's
  bool rope_features = false;                 ///< features are of rotated queries and keys
  bool beyond_window = false;                 ///< the state holds what the window no longer does
  GateSource gate = GateSource::kKey;         ///< not with beyond_window, unless rope_features is on too
  /// Features are of x + W_h x, with a matrix of each head that is learned (as in arXiv 2410.10254): new parameters,
  /// zeros when the model is made. LibTorch's operators run them.
  bool learned_features = false;
  /// Numbers of single heads, [layers][H] or [layers][Hkv] each, a row of a softmax layer empty; a scalar that is not
  /// here has its default in every layer: mix and 1 - mix, 1, 1 and 0.
  std::map<HeadScalar, std::vector<std::vector<double>>> heads = {};

  bool operator==(const LigerConfig&) const = default;

  /// The layer's output is this share of the softmax branch and the rest of the recurrence; a branch of share 0 need
  /// not be computed.
  double window_share() const {
    if (recurrence == kWindowOnly) return 1;
    return window == 0 ? 0 : shares_normalizer() || weighs_heads() ? 0.5 : mix;
  }
  /// Whether `mix` decides anything: there is a softmax branch and a recurrence, and nothing else that weighs them.
  bool has_mix() const { return recurrence != kWindowOnly && window != 0 && !shares_normalizer() && !weighs_heads(); }
  bool shares_normalizer() const { return normalizer == Normalizer::kShared; }
  bool weighs_heads() const { return heads.contains(kWindowWeight) || heads.contains(kLinearWeight); }
  /// Parameters of its own, which neither weights nor config.json have a place for: adapters hold them.
  bool has_new_parameters() const { return learned_features || gate == GateSource::kRandom; }
  /// Compiled code and kernels know it.
  bool is_compiled() const { return gate == GateSource::kKey && !learned_features; }
  std::optional<FeatureMap> features_of(int64_t layer) const {
    return layer_features.empty() ? features : layer_features[static_cast<size_t>(layer)];
  }
  bool is_softmax_layer(int64_t layer) const {
    return std::find(softmax_layers.begin(), softmax_layers.end(), layer) != softmax_layers.end();
  }
};

/// A model's shapes and traits, read from a Hugging Face config.json in its v4 or v5 spelling.
struct ModelConfig {
  const Family* family = nullptr;  ///< never null once read
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;  ///< that run, one after the other (depths); with `recursive` fewer are stored
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;    ///< its own key, or hidden_size / num_attention_heads
  int64_t rotary_dim = 0;  ///< channels of a head that RoPE turns, the first of them; 0 = all
  int64_t max_position_embeddings = 0;
  double norm_eps = 1e-6;  ///< [rms_norm_eps, layer_norm_eps]
  double initializer_range = 0.02;
  RopeConfig rope;
  std::optional<RopeConfig> local_rope;  ///< of sliding layers, where they have one of their own
  /// Keys that a query of a sliding layer sees, its own included; 0 = there is no such layer.
  int64_t sliding_window = 0;
  std::vector<bool> sliding_layers;  ///< by depth; empty = none. Linearized ones keep their RoPE and not their window
  /// Scores of attention are divided by its root; 0 = head_dim, as in most families.
  double query_pre_attn_scalar = 0;
  /// Scores, or logits, x become c tanh(x / c); 0 = they are as they are. [attn_logit_softcapping,
  /// final_logit_softcapping]
  double attention_softcap = 0, logit_softcap = 0;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  bool parallel_residual = false;  ///< attention and MLP read the same: x + attention(norm(x)) + mlp(norm'(x))
  std::string hidden_act;          ///< "silu", "gelu", "gelu_pytorch_tanh"
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;  ///< one or several end the text
  std::string stored_dtype;            ///< "float32", "bfloat16", "float16"; empty = not said
  std::optional<LigerConfig> liger;    ///< absent = softmax attention
  std::optional<Recursion> recursive;  ///< absent = every layer runs once
  Backend backend = Backend::kAuto;    ///< of the linearized layers; not a part of config.json

  /// DIR/config.json. Throws Error(kBadInput) "FILE: 'key': expected ..., got ..." for what is missing, contradictory
  /// or out of range, for a model_type that is not supported (with the list of those that are), and for one that
  /// contradicts the "liger" object.
  static ModelConfig read(const std::filesystem::path& dir);
  static ModelConfig from_json(const Json& config, const std::string& source);
  /// For models made here rather than read: a complete config.json in both spellings.
  OrderedJson to_json() const;

  /// Layers that a checkpoint holds, and which of them runs at a depth.
  int64_t stored_layers() const { return recursive ? recursive->slots(num_hidden_layers) : num_hidden_layers; }
  int64_t slot(int64_t depth) const { return recursive ? recursive->slot(depth, num_hidden_layers) : depth; }
  int64_t rotated_channels() const { return rotary_dim == 0 ? head_dim : rotary_dim; }
  /// Of o_proj: `attention_bias`, unless the family has biases of its inputs alone.
  bool output_bias() const;
  bool is_sliding(int64_t layer) const { return !sliding_layers.empty() && sliding_layers[static_cast<size_t>(layer)]; }
  /// Keys that a query of this layer sees as long as it is softmax attention; 0 = all.
  int64_t window_of(int64_t layer) const { return is_sliding(layer) ? sliding_window : 0; }
  bool has_local_rope(int64_t layer) const { return local_rope && is_sliding(layer); }
  /// Queries are multiplied by it before anything reads them, so that scores are those of the scale head_dim^-1/2.
  double query_factor() const;
  bool has_biases() const { return attention_bias || mlp_bias; }
  /// "model.layers.5.mlp.up_proj.weight" as a checkpoint has it, where depth 5 may run the stored layer 1.
  std::string stored_name(const std::string& name) const;
  /// The same model with every layer on its own.
  ModelConfig unrolled() const;

  /// Query heads per key/value head.
  int64_t group_size() const { return num_attention_heads / num_key_value_heads; }
  /// Whether this layer is softmax attention over the whole sequence: all are without `liger`, some in a hybrid.
  bool is_softmax_layer(int64_t layer) const { return !liger || liger->is_softmax_layer(layer); }
  /// Whether any layer is: then the model's memory grows with the text, and positions it was not trained for matter.
  bool has_softmax_layers() const { return !liger || !liger->softmax_layers.empty(); }
};

/// The "liger" object <-> LigerConfig; what it does not say is as in `defaults`. Unknown keys and values out of range
/// throw Error(kBadInput) "SOURCE: window: expected ..., got ...".
LigerConfig liger_config_from_json(const Json& object, const std::string& source, const LigerConfig& defaults = {});
/// Only what has a meaning: no mix where there is nothing to mix, no gate_divisor where the structure has none.
OrderedJson to_json(const LigerConfig& config);

/// The "recursive" object of config.json.
OrderedJson to_json(const Recursion& recursion);

/// The names that config.json, configurations and command lines have for them; others throw Error(kUsage) with a list.
FeatureMap feature_map_from_name(const std::string& name);  ///< identity, softmax, softmax-pair, exp-pair
Normalizer normalizer_from_name(const std::string& name);   ///< none, own, shared
bool beyond_window_from_name(const std::string& name);      ///< all, beyond-window
GateSource gate_source_from_name(const std::string& name);  ///< key, query, value, random

/// Throws Error(code) "SOURCE: window: expected ..., got ..." unless the settings make sense by themselves; the second
/// also unless they suit this model (its layers, its head_dim; model.liger is not looked at).
void validate(const LigerConfig& config, const std::string& source, ErrorCode code = ErrorCode::kUsage);
void validate(const LigerConfig& config, const ModelConfig& model, const std::string& source,
              ErrorCode code = ErrorCode::kUsage);

}  // namespace liger
