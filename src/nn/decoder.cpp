#include "nn/decoder.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/repeat_interleave.h>

#include "liger/error.h"
#include "nn/checkpointed.h"

namespace liger {
namespace {

at::Tensor to_tensor(const std::vector<int64_t>& values, at::Device device) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())}, at::kLong)
      .clone()
      .to(device);
}

// An empty state starts; a used one must be of as many sequences.
void begin(DecodingState& state, int64_t sequences, int64_t layers) {
  LIGER_CHECK(!at::GradMode::is_enabled(), "decoding with a state needs NoGradGuard or InferenceMode");
  if (state.layers.empty()) {
    state.layers.resize(layers);
    state.seen.assign(sequences, 0);
  }
  LIGER_CHECK(
      static_cast<int64_t>(state.layers.size()) == layers && static_cast<int64_t>(state.seen.size()) == sequences,
      "decoding state: expected ", layers, " layers of ", sequences, " sequences, got ", state.layers.size(), " of ",
      state.seen.size());
}

}  // namespace

DecoderLayer::DecoderLayer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options) {
  input_layernorm_ = register_module("input_layernorm", std::make_shared<RmsNorm>(config, options));
  self_attn_ = register_module("self_attn", make_token_mixer(config, layer, options));
  post_attention_layernorm_ = register_module("post_attention_layernorm", std::make_shared<RmsNorm>(config, options));
  mlp_ = register_module("mlp", std::make_shared<Mlp>(config, options));
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, const MixerContext& context, LayerState* state) {
  return after_attention(x + self_attn_->forward(attention_input(x), context, state));
}

void DecoderLayer::tie(const std::shared_ptr<DecoderLayer>& to, bool with_norms) {
  tied_to_ = to;
  self_attn_->tie(*to->self_attn_);
  mlp_->tie(*to->mlp_);
  if (!with_norms) return;
  input_layernorm_->tie(*to->input_layernorm_);
  post_attention_layernorm_->tie(*to->post_attention_layernorm_);
}

std::vector<at::Tensor> DecoderLayer::all_parameters() const {
  std::vector<at::Tensor> out = parameters();
  if (!tied_to_) return out;
  const std::vector<at::Tensor> shared = tied_to_->parameters();
  out.insert(out.end(), shared.begin(), shared.end());
  return out;
}

Decoder::Decoder(const ModelConfig& config, const at::TensorOptions& options) : config_(config) {
  embed_tokens_ = register_module("embed_tokens", std::make_shared<Embedding>(config, options));
  auto layers = register_module("layers", std::make_shared<torch::nn::Module>());
  std::vector<std::shared_ptr<DecoderLayer>> first(static_cast<size_t>(config.stored_layers()));  // of each slot
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers_.push_back(layers->register_module(std::to_string(i), std::make_shared<DecoderLayer>(config, i, options)));
    auto& owner = first[static_cast<size_t>(config.slot(i))];
    if (owner) {
      layers_.back()->tie(owner, /*with_norms=*/!config.recursive->depth_norms);
    } else {
      owner = layers_.back();
    }
  }
  norm_ = register_module("norm", std::make_shared<RmsNorm>(config, options));
}

MixerContext Decoder::context(const Sequences& tokens) const {
  const at::Tensor frequencies = rope_frequencies(config_.rope, config_.head_dim, tokens.ids().device());
  return {tokens, liger::rotation(frequencies, tokens.positions()), std::vector<int64_t>(tokens.count(), 0), {}};
}

at::Tensor Decoder::forward(const Sequences& tokens, DecodingState* state) {
  const at::Device device = tokens.ids().device();
  at::Tensor positions = tokens.positions(), seen;
  std::vector<int64_t> past(tokens.count(), 0);
  if (state) {
    begin(*state, tokens.count(), config_.num_hidden_layers);
    past = state->seen;
    seen = to_tensor(past, device);
    positions = positions + seen.repeat_interleave(to_tensor(tokens.lengths(), device));
  }
  const at::Tensor frequencies = rope_frequencies(config_.rope, config_.head_dim, device);
  const MixerContext context{tokens, liger::rotation(frequencies, positions), past, seen};
  at::Tensor x = embed_tokens_->forward(tokens.ids());
  if (checkpoints_ && !state) return norm_->forward(forward_checkpointed(x, context));
  for (size_t i = 0; i < layers_.size(); ++i) x = layers_[i]->forward(x, context, state ? &state->layers[i] : nullptr);
  if (state)
    for (int64_t s = 0; s < tokens.count(); ++s) state->seen[s] += tokens.lengths()[s];
  return norm_->forward(x);
}

at::Tensor Decoder::forward_checkpointed(at::Tensor x, const MixerContext& context) const {
  const auto shared = std::make_shared<const MixerContext>(context);  // outlives this pass
  for (const auto& layer : layers_) {
    const auto run = [layer, shared](const at::Tensor& in) { return layer->forward(in, *shared, nullptr); };
    x = checkpointed(run, x, layer->all_parameters());
  }
  return x;
}

}  // namespace liger
