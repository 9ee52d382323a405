#pragma once

#include <memory>
#include <vector>

#include "core/sequence_tree.h"
#include "liger/core/sequences.h"
#include "liger/nn/state.h"
#include "nn/modules.h"
#include "nn/token_mixer.h"

namespace liger {

/// Pre-norm block: x + self_attn(norm(x)), then x + mlp(norm(x)); or both of the same x (a parallel residual); or
/// x + norm(self_attn(norm(x))), then x + norm(mlp(norm(x))).
class DecoderLayer : public torch::nn::Module {
 public:
  DecoderLayer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x, const MixerContext& context, LayerState* state);
  /// Runs with the weights of another, but for norms or biases that depths have of their own; adapters and numbers of
  /// heads are its own.
  void tie(const std::shared_ptr<DecoderLayer>& to, const Recursion& recursion);
  /// Whatever a forward pass may read: its own, and those of the layer it is tied to.
  std::vector<at::Tensor> all_parameters() const;

  // Its parts.
  at::Tensor attention_input(const at::Tensor& x) { return input_layernorm_->forward(x); }
  TokenMixer& attention() { return *self_attn_; }
  const Mlp& mlp() const { return *mlp_; }
  const Norm& input_norm() const { return *input_layernorm_; }
  const Norm& mlp_norm() const { return *mlp_norm_; }
  const Norm* attention_output_norm() const { return attention_output_norm_.get(); }  ///< null if there is none
  const Norm* mlp_output_norm() const { return mlp_output_norm_.get(); }
  bool parallel() const { return parallel_; }
  at::Tensor mlp_input(const at::Tensor& x) { return mlp_norm_->forward(x); }
  /// What goes into the residual stream of what attention and MLP gave.
  at::Tensor attention_share(const at::Tensor& x) {
    return attention_output_norm_ ? attention_output_norm_->forward(x) : x;
  }
  at::Tensor mlp_share(const at::Tensor& x) { return mlp_output_norm_ ? mlp_output_norm_->forward(x) : x; }
  /// What the layer gives, where it read x and its attention gave `attended`.
  at::Tensor after_attention(const at::Tensor& x, const at::Tensor& attended);

 private:
  bool parallel_;
  std::shared_ptr<Norm> input_layernorm_, mlp_norm_;
  std::shared_ptr<Norm> attention_output_norm_, mlp_output_norm_;  // null if there are none
  std::shared_ptr<TokenMixer> self_attn_;
  std::shared_ptr<Mlp> mlp_;
  std::shared_ptr<DecoderLayer> tied_to_;
};

/// Embedding, layers and final norm: what Hugging Face calls "model".
class Decoder : public torch::nn::Module {
 public:
  Decoder(const ModelConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const Sequences& tokens, DecodingState* state);  ///< [N, hidden_size]
  /// Of all tokens of a tree, [N, hidden_size]. They go on from `root`, the state of one sequence, which stays as it
  /// is; null: from nothing. Needs NoGradGuard or InferenceMode.
  at::Tensor forward(const SequenceTree& tree, const DecodingState* root);
  std::vector<at::Tensor> exits(const Sequences& tokens);  ///< see CausalLM::exit_states()
  // Its parts, for whole sequences.
  at::Tensor embed(const Sequences& tokens) { return embed_tokens_->forward(tokens.ids()); }
  MixerContext context(const Sequences& tokens) const;
  const std::vector<std::shared_ptr<DecoderLayer>>& layers() const { return layers_; }

  void checkpoint_layers(bool on) { checkpoints_ = on; }
  at::Tensor normalize(const at::Tensor& x) { return norm_->forward(x); }  ///< the final norm
  const at::Tensor& embedding() const { return embed_tokens_->weight; }

 private:
  Rotation rotation(const at::Tensor& positions) const { return liger::rotation(frequencies(config_.rope), positions); }
  Rotation local_rotation(const at::Tensor& positions) const {
    return config_.local_rope ? liger::rotation(frequencies(*config_.local_rope), positions) : Rotation();
  }
  at::Tensor frequencies(const RopeConfig& rope) const;
  at::Tensor run_layer(size_t layer, const at::Tensor& x, const std::shared_ptr<const MixerContext>& context) const;

  ModelConfig config_;
  std::shared_ptr<Embedding> embed_tokens_;
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::shared_ptr<Norm> norm_;
  bool checkpoints_ = false;
};

}  // namespace liger
