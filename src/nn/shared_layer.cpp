#include "nn/shared_layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "liger/error.h"
#include "liger/ops/linear.h"
#include "liger/ops/ops.h"

namespace liger {
namespace {

using Groups = std::vector<DepthRows>;

// y = x W^T + bias, and to each group's rows s (x A^T) B^T of its own pair.
template <typename Pick>
at::Tensor linear(const Groups& groups, const at::Tensor& x, const Pick& pick) {
  const Linear& first = pick(*groups.front().layer);
  const bool one_bias = std::all_of(groups.begin(), groups.end(), [&](const DepthRows& group) {
    return pick(*group.layer).bias.is_same(first.bias);
  });
  at::Tensor y = liger::linear(x, first.weight, one_bias ? first.bias : at::Tensor());
  for (const DepthRows& group : groups) {
    const Linear& of_depth = pick(*group.layer);
    if (!one_bias) y.narrow(0, group.begin, group.count).add_(of_depth.bias);
    if (!of_depth.has_lora()) continue;
    LIGER_CHECK(!of_depth.has_dora(), "shared layers: expected LoRA, got DoRA");
    const at::Tensor rows = x.narrow(0, group.begin, group.count);
    const at::Tensor a = of_depth.lora_a(), b = of_depth.lora_b();
    const at::Tensor low = at::mm(rows.to(a.scalar_type()), a.t()).mul_(of_depth.lora_scale());
    y.narrow(0, group.begin, group.count).add_(at::mm(low, b.t()));
  }
  return y;
}

template <typename Norm>
at::Tensor normalized(const Groups& groups, const at::Tensor& x, const Norm& norm) {
  if (groups.size() == 1) return norm(*groups.front().layer, x);
  at::Tensor out = at::empty_like(x);
  for (const DepthRows& group : groups)
    out.narrow(0, group.begin, group.count).copy_(norm(*group.layer, x.narrow(0, group.begin, group.count)));
  return out;
}

// Queries and keys with each depth's norms.
Projections with_head_norms(const Groups& groups, const Projections& all) {
  if (!groups.front().layer->attention().norms_heads()) return all;
  std::vector<at::Tensor> q, k;
  for (const DepthRows& group : groups) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, group.begin, group.count); };
    const Projections normed = group.layer->attention().normed({part(all.q), part(all.k), part(all.v), at::Tensor()});
    q.push_back(normed.q);
    k.push_back(normed.k);
  }
  return {at::cat(q), at::cat(k), all.v, all.gate};
}

}  // namespace

at::Tensor run_shared_layer(const Groups& groups, const at::Tensor& x,
                            const std::function<at::Tensor(const Projections&)>& mix) {
  LIGER_CHECK(!at::GradMode::is_enabled(), "shared layers: expected NoGradGuard or InferenceMode");
  const at::Tensor in =
      normalized(groups, x, [](DecoderLayer& layer, const at::Tensor& rows) { return layer.attention_input(rows); });
  // What the parts' linear modules make of rows.
  const auto all_of = [&](const at::Tensor& rows, const auto& part) {
    std::vector<at::Tensor> out;
    for (size_t i = 0; i < part(*groups.front().layer).inputs().size(); ++i)
      out.push_back(
          linear(groups, rows, [&](DecoderLayer& layer) -> const Linear& { return *part(layer).inputs()[i]; }));
    return out;
  };
  DecoderLayer& first = *groups.front().layer;
  const auto attention_of = [](DecoderLayer& layer) -> const TokenMixer& { return layer.attention(); };
  const at::Tensor mixed = mix(with_head_norms(groups, first.attention().by_head(all_of(in, attention_of))));
  const at::Tensor attended = linear(groups, mixed.reshape({x.size(0), -1}), [](DecoderLayer& layer) -> const Linear& {
    return layer.attention().output_projection();
  });
  const at::Tensor between = x + normalized(groups, attended, [](DecoderLayer& layer, const at::Tensor& rows) {
                               return layer.attention_share(rows);
                             });
  const at::Tensor read = normalized(groups, first.parallel() ? x : between,
                                     [](DecoderLayer& layer, const at::Tensor& rows) { return layer.mlp_input(rows); });
  const auto mlp_of = [](DecoderLayer& layer) -> const Mlp& { return layer.mlp(); };
  const at::Tensor written = linear(groups, first.mlp().activate(all_of(read, mlp_of)),
                                    [](DecoderLayer& layer) -> const Linear& { return layer.mlp().output(); });
  return between +
         normalized(groups, written, [](DecoderLayer& layer, const at::Tensor& rows) { return layer.mlp_share(rows); });
}

}  // namespace liger
