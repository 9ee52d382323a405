#include "generate/depth_pass.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include "liger/core/sequences.h"
#include "liger/nn/causal_lm.h"
#include "nn/shared_layer.h"

namespace liger {

DepthPass::DepthPass(CausalLM& model)
    : model_(model),
      decoder_(model.decoder()),
      frequencies_(rope_frequencies(model.config().rope, model.config().rotated_channels(), model.device())) {
  if (model.config().local_rope)
    local_frequencies_ =
        rope_frequencies(*model.config().local_rope, model.config().rotated_channels(), model.device());
  if (StepRows::supports(model)) steps_.emplace(model);
}

at::Tensor DepthPass::embed(std::span<const int64_t> ids) const {
  if (steps_) return steps_->embed(ids);
  return decoder_.embed(Sequences({{ids.begin(), ids.end()}}, model_.device()));
}

void DepthPass::reserve(DecodingState& text, int64_t tokens) const {
  const ModelConfig& config = model_.config();
  text.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  text.seen.assign(1, 0);
  for (int64_t depth = 0; depth < config.num_hidden_layers; ++depth)
    if (config.is_softmax_layer(depth))
      for (at::Tensor* cache :
           {&text.layers[static_cast<size_t>(depth)].keys, &text.layers[static_cast<size_t>(depth)].values})
        *cache = at::empty({1, tokens, config.num_key_value_heads, config.head_dim},
                           at::TensorOptions(model_.dtype()).device(model_.device()));
}

at::Tensor DepthPass::run(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x) {
  if (steps_) {
    steps_->run(texts, layers, x);
    return x;
  }
  at::Tensor out = x;
  for (int64_t layer = 0; layer < layers; ++layer) out = run_layer(texts, layer, out);
  return out;
}

void DepthPass::remember(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x) {
  if (steps_) return steps_->remember(texts, layers, x);
  for (int64_t layer = 0; layer < layers; ++layer)
    for (const TextRows& of : texts) {
      DecoderLayer& of_depth = *decoder_.layers()[static_cast<size_t>(of.depth + layer)];
      const at::Tensor rows = x.narrow(0, of.begin, of.count);
      mix({of.text, of.depth, of.seen, 0, of.count}, of.depth + layer,
          of_depth.attention().project(of_depth.attention_input(rows)));
    }
}

std::vector<RowChoice> DepthPass::choose(const at::Tensor& x, const std::vector<ChoiceRow>& rows) {
  if (steps_) return steps_->choose(x, rows);
  std::vector<int64_t> indices;
  ChoiceSums sums = ChoiceSums::kNone;
  for (const ChoiceRow& row : rows) {
    indices.push_back(row.row);
    sums = std::max(sums, row.sums);
  }
  const at::Tensor wanted = at::index_select(x, 0, at::tensor(indices).to(x.device()));
  return choose_tokens(model_.logits(decoder_.normalize(wanted)), sums);
}

at::Tensor DepthPass::run_layer(const std::vector<TextRows>& texts, int64_t layer, const at::Tensor& x) {
  std::vector<DepthRows> groups;
  for (const TextRows& of : texts) {
    DecoderLayer* const of_depth = decoder_.layers()[static_cast<size_t>(of.depth + layer)].get();
    if (groups.empty() || groups.back().layer != of_depth) groups.push_back({of_depth, of.begin, 0});
    groups.back().count += of.count;
  }
  return run_shared_layer(groups, x, [&](const Projections& all) { return mix_all(texts, layer, all); });
}

at::Tensor DepthPass::mix_all(const std::vector<TextRows>& texts, int64_t layer, const Projections& all) {
  std::vector<at::Tensor> mixed;
  for (const TextRows& of : texts) mixed.push_back(mix(of, of.depth + layer, all));
  return mixed.size() == 1 ? mixed.front() : at::cat(mixed);
}

at::Tensor DepthPass::mix(const TextRows& of, int64_t depth, const Projections& all) {
  const auto part = [&](const at::Tensor& x) { return x.narrow(0, of.begin, of.count); };
  const Sequences tokens(std::vector<std::vector<int64_t>>{std::vector<int64_t>(static_cast<size_t>(of.count), 0)},
                         model_.device());
  const at::Tensor before = at::full({1}, of.seen, at::TensorOptions(at::kLong).device(model_.device()));
  const at::Tensor positions = tokens.positions() + of.seen;
  const MixerContext context{tokens,
                             rotation(frequencies_, positions),
                             {of.seen},
                             before,
                             local_frequencies_.defined() ? rotation(local_frequencies_, positions) : Rotation()};
  return decoder_.layers()[static_cast<size_t>(depth)]->attention().mix(
      {part(all.q), part(all.k), part(all.v), at::Tensor()}, context, &of.text->layers[static_cast<size_t>(depth)]);
}

}  // namespace liger
