#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "liger/core/model_config.h"
#include "liger/core/sequences.h"
#include "liger/nn/lora.h"
#include "liger/nn/state.h"
#include "liger/ops/ops.h"
#include "nn/fused_mix.h"
#include "nn/modules.h"

namespace liger {

struct TreeContext;  // nn/tree_context.h

/// What every layer of one forward pass shares.
struct MixerContext {
  Sequences tokens;
  Rotation rotation;             ///< of all tokens, at their positions in their sequences
  std::vector<int64_t> past;     ///< tokens of each sequence already in the state; zeros without one
  at::Tensor seen;               ///< the same, [S] int64 on the device; undefined without a state
  Rotation local_rotation = {};  ///< of sliding layers that have a RoPE of their own
  /// The tokens are those of a tree, and the state is that of its root, which is not advanced; null: they are not.
  const TreeContext* tree = nullptr;
};

/// q [N, H, D], k and v [N, Hkv, D] of a layer, normed where the family norms them, before RoPE; and [N, Hkv, D] of a
/// gate that is not of the key.
struct Projections {
  at::Tensor q, k, v, gate;
};

/// The projections around a way to mix tokens.
class TokenMixer : public torch::nn::Module {
 public:
  TokenMixer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options);
  /// x [N, hidden_size] -> [N, hidden_size]; `state` (may be null) is advanced.
  at::Tensor forward(const at::Tensor& x, const MixerContext& context, LayerState* state) {
    return output(context.tree ? mix_tree(project(x), context, state) : mix(project(x), context, state));
  }

  // Its three steps.
  virtual Projections project(const at::Tensor& x);
  /// Of what inputs() gave, where the gate is the key's.
  Projections by_head(const std::vector<at::Tensor>& projected) const;
  /// What by_head() gave, with the norms and the factor of queries and keys, if there are any.
  Projections normed(Projections in) const;
  bool norms_heads() const { return q_norm_ || query_factor_ != 1; }
  const Rotation& rotation(const MixerContext& context) const {
    return local_rope_ ? context.local_rotation : context.rotation;
  }
  /// -> [N, H, D] in the projections' dtype.
  virtual at::Tensor mix(const Projections& in, const MixerContext& context, LayerState* state) = 0;
  /// The same of a tree (context.tree), by what mix() does to its levels, or by tree_attention().
  at::Tensor mix_tree(const Projections& in, const MixerContext& context, const LayerState* root);
  /// Whether mix() is softmax over all tokens before, scale D^-1/2, of queries and keys rotated as the context says,
  /// and nothing else: no window, no cap.
  virtual bool attends_plainly() const { return false; }
  at::Tensor output(const at::Tensor& mixed);
  /// Projects with the weights of another (Linear::tie()).
  void tie(const TokenMixer& to, bool with_biases, bool with_norms);
  // Its projections: of queries, keys and values, or one of all (Family::attention_inputs).
  const std::vector<std::shared_ptr<Linear>>& inputs() const { return inputs_; }
  const Linear& output_projection() const { return *output_; }
  const Norm* query_norm() const { return q_norm_.get(); }  ///< null if there is none
  const Norm* key_norm() const { return k_norm_.get(); }
  /// Gives the layer numbers of heads of its own (core/head_scalars.h), their defaults, if it could use them and has
  /// none.
  virtual void add_head_scalars() {}

 protected:
  at::Device device() const { return output_->weight.device(); }

 private:
  int64_t heads_, kv_heads_, head_dim_;
  double query_factor_;
  bool local_rope_;
  std::shared_ptr<Norm> q_norm_, k_norm_;
  std::vector<std::shared_ptr<Linear>> inputs_;
  std::shared_ptr<Linear> output_;
};

/// The mixer config.json asks for in layer `layer`: softmax attention, or a Liger layer.
std::shared_ptr<TokenMixer> make_token_mixer(const ModelConfig& config, int64_t layer,
                                             const at::TensorOptions& options);

/// What a linearized layer's mix reads; `scalars` may be undefined.
MixInputs mix_inputs(const TokenMixer& mixer, const Projections& x, const MixerContext& context,
                     const at::Tensor& scalars);

// One file each.
std::shared_ptr<TokenMixer> make_softmax_attention(const ModelConfig& config, int64_t layer,
                                                   const at::TensorOptions& options);
std::shared_ptr<TokenMixer> make_liger_attention(const ModelConfig& config, int64_t layer,
                                                 const at::TensorOptions& options);

}  // namespace liger
