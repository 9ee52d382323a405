#pragma once

#include <functional>
#include <vector>

#include "core/sequence_tree.h"
#include "nn/token_mixer.h"

namespace liger {

/// What every layer of one pass over a tree shares, beside the MixerContext of all its tokens.
struct TreeContext {
  /// The segments of one level as sequences that go on from those of the level above.
  struct Level {
    MixerContext context;
    at::Tensor tokens;   ///< [n] where they are in the tree; undefined if these are all
    at::Tensor parents;  ///< [S] the segment above among those of its level; at the first level the root, 0
  };
  const SequenceTree& tree;
  int64_t past;  ///< tokens that the root has read
  std::vector<Level> levels;
};

/// Makes the context of sequences whose tokens are at `positions`, `past` and `seen` as MixerContext has them.
using MakeContext = std::function<MixerContext(const Sequences& tokens, const at::Tensor& positions,
                                               const std::vector<int64_t>& past, const at::Tensor& seen)>;
/// `past` tokens come before the tree; `continues`: in a state that all goes on from.
TreeContext tree_context(const SequenceTree& tree, bool continues, int64_t past, const MakeContext& make,
                         at::Device device);

}  // namespace liger
