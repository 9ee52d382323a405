#pragma once

#include <functional>
#include <vector>

#include "nn/decoder.h"

namespace liger {

/// Rows [begin, begin + count) of a batch, which are at one depth.
struct DepthRows {
  DecoderLayer* layer;  ///< the depth's: all of a batch share their weights (Linear::tie())
  int64_t begin, count;
};

/// A shared layer over rows [N, hidden_size] that are at several depths, groups without gaps in order. Each matrix is
/// read once for all rows; pairs of LoRA, and norms where depths have their own, are those of each group. `mix` turns
/// the projections of all rows into [N, H, D]. Without gradients, and without DoRA.
at::Tensor run_shared_layer(const std::vector<DepthRows>& groups, const at::Tensor& x,
                            const std::function<at::Tensor(const Projections&)>& mix);

}  // namespace liger
