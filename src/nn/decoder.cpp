#include "nn/decoder.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/repeat_interleave.h>

#include "liger/error.h"
#include "nn/checkpointed.h"
#include "nn/tree_context.h"

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

DecoderLayer::DecoderLayer(const ModelConfig& config, int64_t layer, const at::TensorOptions& options)
    : parallel_(config.parallel_residual) {
  const auto norm = [&](const char* name) { return register_module(name, std::make_shared<Norm>(config, options)); };
  input_layernorm_ = norm("input_layernorm");
  self_attn_ = register_module(config.family->attention, make_token_mixer(config, layer, options));
  if (config.family->output_norms) attention_output_norm_ = norm("post_attention_layernorm");
  mlp_norm_ = norm(config.family->mlp_norm());
  if (config.family->output_norms) mlp_output_norm_ = norm("post_feedforward_layernorm");
  mlp_ = register_module("mlp", std::make_shared<Mlp>(config, options));
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, const MixerContext& context, LayerState* state) {
  return after_attention(x, self_attn_->forward(attention_input(x), context, state));
}

at::Tensor DecoderLayer::after_attention(const at::Tensor& x, const at::Tensor& attended) {
  const at::Tensor sum = x + attention_share(attended);
  return sum + mlp_share(mlp_->forward(mlp_input(parallel_ ? x : sum)));
}

void DecoderLayer::tie(const std::shared_ptr<DecoderLayer>& to, const Recursion& recursion) {
  tied_to_ = to;
  self_attn_->tie(*to->self_attn_, !recursion.depth_biases, !recursion.depth_norms);
  mlp_->tie(*to->mlp_, !recursion.depth_biases);
  if (recursion.depth_norms) return;
  input_layernorm_->tie(*to->input_layernorm_);
  mlp_norm_->tie(*to->mlp_norm_);
  if (!attention_output_norm_) return;
  attention_output_norm_->tie(*to->attention_output_norm_);
  mlp_output_norm_->tie(*to->mlp_output_norm_);
}

std::vector<at::Tensor> DecoderLayer::all_parameters() const {
  std::vector<at::Tensor> out = parameters();
  if (!tied_to_) return out;
  const std::vector<at::Tensor> shared = tied_to_->parameters();
  out.insert(out.end(), shared.begin(), shared.end());
  return out;
}

Decoder::Decoder(const ModelConfig& config, const at::TensorOptions& options) : config_(config) {
  embed_tokens_ = register_module(config.family->embedding, std::make_shared<Embedding>(config, options));
  auto layers = register_module("layers", std::make_shared<torch::nn::Module>());
  std::vector<std::shared_ptr<DecoderLayer>> first(static_cast<size_t>(config.stored_layers()));  // of each slot
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers_.push_back(layers->register_module(std::to_string(i), std::make_shared<DecoderLayer>(config, i, options)));
    auto& owner = first[static_cast<size_t>(config.slot(i))];
    if (owner) {
      layers_.back()->tie(owner, *config.recursive);
    } else {
      owner = layers_.back();
    }
  }
  norm_ = register_module(config.family->final_norm, std::make_shared<Norm>(config, options));
}

at::Tensor Decoder::frequencies(const RopeConfig& rope) const {
  return rope_frequencies(rope, config_.rotated_channels(), embed_tokens_->weight.device());
}

MixerContext Decoder::context(const Sequences& tokens) const {
  const at::Tensor positions = tokens.positions();
  return {tokens, rotation(positions), std::vector<int64_t>(tokens.count(), 0), {}, local_rotation(positions)};
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
  const auto context = std::make_shared<const MixerContext>(
      MixerContext{tokens, rotation(positions), past, seen, local_rotation(positions)});  // outlives this pass
  at::Tensor x = embed_tokens_->forward(tokens.ids());
  for (size_t i = 0; i < layers_.size(); ++i)
    x = state ? layers_[i]->forward(x, *context, &state->layers[i]) : run_layer(i, x, context);
  if (state)
    for (int64_t s = 0; s < tokens.count(); ++s) state->seen[s] += tokens.lengths()[s];
  return norm_->forward(x);
}

at::Tensor Decoder::forward(const SequenceTree& tree, const DecodingState* root) {
  LIGER_CHECK(!at::GradMode::is_enabled(), "reading a tree needs NoGradGuard or InferenceMode");
  LIGER_CHECK(!root || root->seen.size() == 1, "reading a tree: expected the state of one sequence, got one of ",
              root->seen.size());
  const at::Device device = embedding().device();
  const int64_t past = root ? root->seen[0] : 0;
  const MakeContext make = [&](const Sequences& tokens, const at::Tensor& positions, const std::vector<int64_t>& seen,
                               const at::Tensor& seen_there) {
    return MixerContext{tokens, rotation(positions), seen, seen_there, local_rotation(positions)};
  };
  const TreeContext levels = tree_context(tree, root != nullptr, past, make, device);
  std::vector<int64_t> positions;
  for (const SequenceTree::Segment& segment : tree.segments)
    for (int64_t t = 0; t < segment.length; ++t) positions.push_back(past + segment.position + t);
  const Sequences tokens({tree.ids}, device);
  MixerContext context = make(tokens, to_tensor(positions, device), {past}, {});
  context.tree = &levels;
  at::Tensor x = embed_tokens_->forward(tokens.ids());
  for (size_t i = 0; i < layers_.size(); ++i) {
    LayerState state;  // a layer may not advance the root's
    if (root) state = root->layers[i];
    x = layers_[i]->forward(x, context, root ? &state : nullptr);
  }
  return norm_->forward(x);
}

std::vector<at::Tensor> Decoder::exits(const Sequences& tokens) {
  LIGER_CHECK(config_.recursive, "exits: expected a recursive model");
  const std::vector<int64_t> ends = config_.recursive->loop_ends(config_.num_hidden_layers);
  LIGER_CHECK(!ends.empty(), "exits: expected loops one after the other, and this model runs each layer ",
              config_.recursive->loops, " times in a row");
  const auto context = std::make_shared<const MixerContext>(this->context(tokens));
  std::vector<at::Tensor> out;
  at::Tensor x = embed(tokens);
  for (int64_t i = 0; i <= ends.back(); ++i) {
    x = run_layer(static_cast<size_t>(i), x, context);
    if (i != ends[out.size()]) continue;
    out.push_back(norm_->forward(config_.recursive->keeps_ends() ? run_layer(layers_.size() - 1, x, context) : x));
  }
  return out;
}

// Of whole sequences.
at::Tensor Decoder::run_layer(size_t layer, const at::Tensor& x,
                              const std::shared_ptr<const MixerContext>& context) const {
  const auto run = [of = layers_[layer], context](const at::Tensor& in) { return of->forward(in, *context, nullptr); };
  return checkpoints_ ? checkpointed(run, x, layers_[layer]->all_parameters()) : run(x);
}

}  // namespace liger
