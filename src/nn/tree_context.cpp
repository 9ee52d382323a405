#include "nn/tree_context.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>

#include <algorithm>

#include "nn/tree_attention.h"

namespace liger {
namespace {

at::Tensor to_tensor(const std::vector<int64_t>& values, at::Device device) {
  at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out.to(device);
}

LayerState select(const LayerState& state, const at::Tensor& rows) {
  const int64_t sequences = (state.recurrent.empty() ? state.keys : state.recurrent[0]).size(0);
  return DecodingState{{state}, std::vector<int64_t>(static_cast<size_t>(sequences), 0)}.select(rows).layers[0];
}

at::Tensor rows_of(const at::Tensor& x, const at::Tensor& rows) {
  return x.defined() && rows.defined() ? x.index_select(0, rows) : x;
}

// One level after the other, each on from copies of the states that the one above has left.
at::Tensor mix_levels(TokenMixer& mixer, const Projections& in, const TreeContext& tree, const LayerState* root) {
  at::Tensor out;
  LayerState above;
  if (root) above = *root;
  for (size_t l = 0; l < tree.levels.size(); ++l) {
    const TreeContext::Level& level = tree.levels[l];
    const bool continues = l > 0 || root, goes_on = l + 1 < tree.levels.size();
    LayerState state = continues ? select(above, level.parents) : LayerState{};
    const Projections own = {rows_of(in.q, level.tokens), rows_of(in.k, level.tokens), rows_of(in.v, level.tokens),
                             rows_of(in.gate, level.tokens)};
    const at::Tensor mixed = mixer.mix(own, level.context, continues || goes_on ? &state : nullptr);
    if (!level.tokens.defined()) return mixed;
    if (!out.defined()) out = at::empty_like(in.q, mixed.options(), at::MemoryFormat::Contiguous);
    out.index_copy_(0, level.tokens, mixed.view(own.q.sizes()));
    above = std::move(state);
  }
  return out;
}

}  // namespace

TreeContext tree_context(const SequenceTree& tree, bool continues, int64_t past, const MakeContext& make,
                         at::Device device) {
  TreeContext out{tree, past, {}};
  const int64_t levels = tree.levels();
  std::vector<int64_t> row(tree.segments.size());  // of a segment in its level
  for (int64_t l = 0; l < levels; ++l) {
    std::vector<std::vector<int64_t>> documents;
    std::vector<int64_t> tokens, positions, before, parents;
    for (size_t s = 0; s < tree.segments.size(); ++s) {
      const SequenceTree::Segment& segment = tree.segments[s];
      if (segment.level != l) continue;
      row[s] = static_cast<int64_t>(documents.size());
      parents.push_back(segment.parent < 0 ? 0 : row[static_cast<size_t>(segment.parent)]);
      before.push_back(past + segment.position);
      documents.emplace_back(tree.ids.begin() + segment.begin, tree.ids.begin() + segment.begin + segment.length);
      for (int64_t t = 0; t < segment.length; ++t) {
        tokens.push_back(segment.begin + t);
        positions.push_back(before.back() + t);
      }
    }
    const bool has_state = continues || levels > 1;
    out.levels.push_back({make(Sequences(documents, device), to_tensor(positions, device), before,
                               has_state ? to_tensor(before, device) : at::Tensor()),
                          levels > 1 ? to_tensor(tokens, device) : at::Tensor(), to_tensor(parents, device)});
  }
  return out;
}

at::Tensor TokenMixer::mix_tree(const Projections& in, const MixerContext& context, const LayerState* root) {
  if (!attends_plainly() || !tree_attention_runs(in.q)) return mix_levels(*this, in, *context.tree, root);
  at::Tensor keys, values;
  if (root) keys = root->keys[0].narrow(0, 0, context.tree->past);
  if (root) values = root->values[0].narrow(0, 0, context.tree->past);
  return tree_attention(rotate(in.q, rotation(context)), rotate(in.k, rotation(context)), in.v, context.tree->tree,
                        keys, values);
}

}  // namespace liger
