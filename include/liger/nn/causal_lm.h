#pragma once

#include <torch/nn/module.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "liger/core/dtype.h"
#include "liger/core/model_config.h"
#include "liger/core/sequences.h"
#include "liger/nn/state.h"

namespace liger {

class Decoder;  // embedding, layers and final norm
class Linear;

/// How to load a model.
struct LoadOptions {
  /// Undefined = as stored. Tensors of the right dtype are used in place from the mapped file.
  std::optional<at::ScalarType> dtype;
  at::Device device = at::kCPU;
  Backend backend = Backend::kAuto;
  /// Runs the same weights with these Liger layers, whatever config.json says.
  std::optional<LigerConfig> liger;
  /// Runs them with softmax attention, whatever config.json says.
  bool softmax = false;
  /// A PEFT LoRA folder to add; empty = that of a recursive model, if it has one (own_adapter()). One with a
  /// layer_replication makes a plain model recursive, as PEFT does.
  std::filesystem::path adapter;
  bool own_adapter = true;
};

/// A decoder-only language model with Hugging Face module names ("model.layers.0.self_attn.q_proj.weight"), built
/// from its ModelConfig alone: any family (models/family.h), softmax or Liger attention.
class CausalLM : public torch::nn::Module {
 public:
  /// Random weights: N(0, initializer_range), what writes into the residual stream (o_proj and down_proj) 1/sqrt(2
  /// layers) of that, norms at their neutral value, biases zero.
  explicit CausalLM(ModelConfig config, at::TensorOptions options = at::kFloat);
  /// A Hugging Face folder, ready to be used (eval()). Throws Error(kBadInput) listing every missing, extra and
  /// misshapen tensor.
  static std::shared_ptr<CausalLM> load(const std::filesystem::path& dir, const LoadOptions& options = {});

  /// The same weights, in the same memory, with softmax attention and without an adapter: what a linearized model is to
  /// be like. Ready to be used (eval()).
  std::shared_ptr<CausalLM> teacher() const;

  const ModelConfig& config() const { return config_; }
  /// The same with the numbers of heads as they are now, which training may have changed.
  ModelConfig config_as_trained() const;
  at::ScalarType dtype() const;
  at::Device device() const;

  /// Hidden states after the final norm, [N, hidden_size], of all tokens. With `state`, the tokens continue the
  /// sequences it holds (the same number of sequences in the same order; an empty one starts them) and it is
  /// advanced in place; that needs NoGradGuard or InferenceMode.
  at::Tensor hidden_states(const Sequences& tokens, DecodingState* state = nullptr);
  /// What hidden_states() would be if a recursive model stopped after its first loop, its second, ...: the last is
  /// that. Throws Error if there are no loops one after the other.
  std::vector<at::Tensor> exit_states(const Sequences& tokens);
  /// Whether a forward pass with gradients keeps of each layer what it reads only, and the backward pass runs the layer
  /// once more (activation checkpointing, arXiv 1604.06174). The gradients are the same to the bit; default: no.
  void checkpoint_layers(bool on);
  /// [n, hidden_size] -> [n, vocab_size] in the model's dtype. Ask only for the positions you need.
  at::Tensor logits(const at::Tensor& hidden);
  /// The output projection [vocab_size, hidden_size] (the embedding itself if tied).
  at::Tensor head_weight() const;

  /// What is between tokens and final norm (nn/decoder.h, not a public header).
  Decoder& decoder() const { return *model_; }

  /// Writes model.safetensors (one file) with the parameters that are not LoRA, in `dtype` (default: as they are).
  void save_weights(const std::filesystem::path& file, std::optional<at::ScalarType> dtype = {}) const;

 private:
  struct Uninitialized {};
  CausalLM(Uninitialized, ModelConfig config, const at::TensorOptions& options);

  ModelConfig config_;
  std::shared_ptr<Decoder> model_;
  std::shared_ptr<Linear> lm_head_;  // null if tied
};

}  // namespace liger
