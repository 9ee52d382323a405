#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace liger {

/// A token after row `row` of hidden states.
struct HeadTarget {
  int64_t row, token;
};
struct HeadScore {
  double log_probability = 0;  ///< not finite if the logits of its row are not
  bool likeliest = false;      ///< no token is more probable, and none before it as probable
};

/// log softmax(z) of each target, in order of their rows, z = hidden weight^T, or softcap tanh(z / softcap) where that
/// is not 0.
///   hidden [n, D] and weight [V, D] on the CPU, in one dtype; softmax in float32 (float64 for float64).
/// The vocabulary goes through in pieces that stay in the cache, so that logits [n, V] never exist.
std::vector<HeadScore> head_scores(const at::Tensor& hidden, const at::Tensor& weight,
                                   std::span<const HeadTarget> targets, double softcap);

}  // namespace liger
