#pragma once

#include <ATen/core/Tensor.h>

#include "core/sequence_tree.h"

namespace liger {

/// Causal softmax attention, scale D^-1/2, of every token of a tree over its own segment and all that it goes on from.
/// Keys that are shared are read where they are: each segment's by all its descendants at once, and the parts of a
/// token's softmax are joined by the logarithms of their sums (arXiv 2205.14135).
///   q [N, H, D], k and v [N, Hkv, D] rotated, in the tree's order; root_keys and root_values [P, Hkv, D] of what comes
///   before all of them, or undefined -> [N, H, D] in q's dtype.
at::Tensor tree_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceTree& tree,
                          const at::Tensor& root_keys, const at::Tensor& root_values);
/// Whether it takes such queries: on the CPU.
bool tree_attention_runs(const at::Tensor& q);

}  // namespace liger
