#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "liger/io/json.h"

namespace liger {

struct Family;  // models/family.h: what makes Llama differ from Gemma, as data

/// Rotary position embedding: angle of pair i at position p is p * theta^(-2i/head_dim), scaled by `type`.
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

/// The "liger" object of config.json: what a linearized layer is made of. The defaults are those of the released
/// Liger-GLA checkpoints (arXiv 2503.01496), whose code has them as constants.
struct LigerConfig {
  std::string recurrence = "gla";
  /// Keys a query sees in the softmax branch, itself included. The released checkpoints see 65 (an argument of 64
  /// that counts the keys *before* the query); the paper's equation 10 says 64.
  int64_t window = 65;
  /// First tokens of the sequence that stay visible to every query of the softmax branch.
  int64_t sinks = 0;
  /// o = mix * softmax branch + (1 - mix) * recurrence, in [0, 1].
  double mix = 0.5;
  /// log-decay g = logsigmoid(k) / gate_divisor.
  double gate_divisor = 16.0;

  bool operator==(const LigerConfig&) const = default;
};

/// A model's shapes and traits, read from a Hugging Face config.json in its v4 or v5 spelling.
struct ModelConfig {
  const Family* family = nullptr;  ///< never null once read
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;  ///< its own key, or hidden_size / num_attention_heads
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  std::string hidden_act;                ///< "silu", "gelu_pytorch_tanh"
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;    ///< one or several end the text
  std::string stored_dtype;              ///< "float32", "bfloat16", "float16"; empty = not said
  std::optional<LigerConfig> liger;      ///< absent = softmax attention

  /// DIR/config.json. Throws Error(kBadInput) "FILE: 'key': expected ..., got ..." for what is missing, contradictory
  /// or out of range, and for a model_type that is not supported (with the list of those that are).
  static ModelConfig read(const std::filesystem::path& dir);
  static ModelConfig from_json(const Json& config, const std::string& source);
  /// For models made here rather than read: a complete config.json in both spellings.
  OrderedJson to_json() const;

  /// Query heads per key/value head.
  int64_t group_size() const { return num_attention_heads / num_key_value_heads; }
};

/// The "liger" object <-> LigerConfig. Unknown keys and values out of range throw Error(kUsage).
LigerConfig liger_config_from_json(const Json& object, const std::string& source);
void validate(const LigerConfig& config, const std::string& source);
OrderedJson to_json(const LigerConfig& config);

}  // namespace liger
