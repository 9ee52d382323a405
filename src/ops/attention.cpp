#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/masked_fill.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "liger/core/dtype.h"
#include "liger/ops/ops.h"

namespace liger {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Sizes of one window attention: T queries in `blocks` of `block`, each block seeing `back` keys before it.
struct Blocks {
  int64_t back, block, blocks;
  int64_t span() const { return back + block; }
  int64_t padded() const { return blocks * block; }
};

Blocks make_blocks(int64_t tokens, int64_t window, bool has_context) {
  const int64_t back = has_context ? window - 1 : std::min(window, tokens) - 1;
  const int64_t block = std::min(tokens, std::clamp<int64_t>(back, 16, 128));
  return {back, block, (tokens + block - 1) / block};
}

// [S, L, Hkv, D] -> [S, Hkv, blocks, D, span]: the keys of each block of queries.
at::Tensor unfold_keys(const at::Tensor& past, const at::Tensor& now, const Blocks& b) {
  const int64_t fill = b.padded() - now.size(1);
  at::Tensor all;
  if (past.defined()) {
    all = at::constant_pad_nd(at::cat({past.to(now.scalar_type()), now}, 1), {0, 0, 0, 0, 0, fill});
  } else {
    all = at::constant_pad_nd(now, {0, 0, 0, 0, b.back, fill});
  }
  return all.transpose(1, 2).unfold(2, b.span(), b.block);
}

// [S or 1, 1, blocks, 1, block, span] bool: false where a key is outside the window or does not exist.
at::Tensor window_mask(const Blocks& b, const at::Tensor& seen, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  const at::Tensor row = at::arange(b.block, options).view({b.block, 1});
  const at::Tensor column = at::arange(b.span(), options).view({1, b.span()});
  const at::Tensor in_window = (column >= row).logical_and(column <= row + b.back);
  const at::Tensor index = at::arange(b.blocks, options).view({b.blocks, 1, 1}) * b.block + column;
  const at::Tensor first = seen.defined() ? (b.back - seen).clamp_min(0).view({-1, 1, 1, 1}) : at::Tensor();
  const at::Tensor exists = first.defined() ? index >= first : (index >= b.back).unsqueeze(0);
  return in_window.logical_and(exists).unsqueeze(1).unsqueeze(3);
}

// [S or 1, 1, blocks, 1, block, sinks] bool: a sink is seen here once it has left the window.
at::Tensor sink_mask(const Blocks& b, int64_t sinks, int64_t window, const at::Tensor& seen, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  at::Tensor position = at::arange(b.padded(), options).view({1, b.blocks, b.block, 1});
  if (seen.defined()) position = position + seen.view({-1, 1, 1, 1});
  const at::Tensor mask = at::arange(sinks, options).view({1, 1, 1, sinks}) <= position - window;
  return mask.unsqueeze(1).unsqueeze(3);
}

// [S or 1, 1, T, L] bool: which of the keys first, first + 1 .. the queries at `begin` and on see.
at::Tensor causal_mask(int64_t begin, int64_t queries, int64_t first, int64_t keys, const at::Tensor& seen,
                       int64_t window, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  at::Tensor position = at::arange(begin, begin + queries, options).view({1, -1, 1});
  if (seen.defined()) position = position + seen.view({-1, 1, 1});
  const at::Tensor key = at::arange(first, first + keys, options).view({1, 1, -1});
  at::Tensor mask = key <= position;
  if (window > 0) mask = mask.logical_and(key > position - window);
  return mask.unsqueeze(1);
}

// Scores as they are, which scaled_dot_product_attention() has no place to change; [S, T, H, D] in and out.
at::Tensor capped_attention(const at::Tensor& q_in, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask,
                            double cap) {
  const auto type = wide_type(q_in);
  const int64_t S = q_in.size(0), T = q_in.size(1), H = q_in.size(2), D = q_in.size(3), Hkv = k.size(2), G = H / Hkv;
  const at::Tensor q = (q_in.to(type) * (1.0 / std::sqrt(static_cast<double>(D))))
                           .view({S, T, Hkv, G, D})
                           .permute({0, 2, 3, 1, 4})
                           .reshape({S, Hkv, G * T, D});
  const at::Tensor scores = softcap(at::matmul(q, k.to(type).permute({0, 2, 3, 1})), cap)
                                .view({S, Hkv, G, T, k.size(1)})
                                .masked_fill(mask.unsqueeze(2).logical_not(), kMinusInfinity);
  return at::matmul(at::softmax(scores, -1).view({S, Hkv, G * T, k.size(1)}), v.to(type).transpose(1, 2))
      .view({S, Hkv, G, T, D})
      .permute({0, 3, 1, 2, 4})
      .reshape({S, T, H, D})
      .to(q_in.scalar_type());
}

at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::optional<at::Tensor>& mask) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask,
                                          /*dropout_p=*/0.0, /*is_causal=*/!mask, /*scale=*/std::nullopt,
                                          /*enable_gqa=*/q.size(2) != k.size(2))
      .transpose(1, 2);
}

}  // namespace

at::Tensor softcap(const at::Tensor& x, double c) { return c == 0 ? x : at::tanh(x / c) * c; }

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& seen,
                            const AttentionLimits& limits) {
  const int64_t T = q.size(1), L = k.size(1), window = L > limits.window ? limits.window : 0;
  if (window == 0 && limits.softcap == 0)
    return plain_attention(q, k, v,
                           seen.defined() ? std::optional(causal_mask(0, T, 0, L, seen, 0, q.device())) : std::nullopt);
  // By blocks of queries, which do not see all keys: the cost of a window does not grow with what lies before it.
  constexpr int64_t kBlock = 256;
  const int64_t least = seen.defined() ? seen.min().item<int64_t>() : 0;
  const int64_t most = seen.defined() ? seen.max().item<int64_t>() : 0;
  std::vector<at::Tensor> out;
  for (int64_t begin = 0; begin < T; begin += kBlock) {
    const int64_t count = std::min(kBlock, T - begin), end = std::min(L, most + begin + count);
    const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, least + begin + 1 - window);
    const at::Tensor mask = causal_mask(begin, count, first, end - first, seen, window, q.device());
    const at::Tensor some_q = q.narrow(1, begin, count), some_k = k.narrow(1, first, end - first),
                     some_v = v.narrow(1, first, end - first);
    out.push_back(limits.softcap == 0 ? plain_attention(some_q, some_k, some_v, mask)
                                      : capped_attention(some_q, some_k, some_v, mask, limits.softcap));
  }
  return out.size() == 1 ? out.front() : at::cat(out, 1);
}

at::Tensor window_attention(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in, int64_t window,
                            const WindowContext& context, at::Tensor* log_sum, double cap) {
  const auto type = wide_type(q_in);
  const at::Tensor k = k_in.to(type), v = v_in.to(type);
  const at::Tensor q = q_in.to(type) * (1.0 / std::sqrt(static_cast<double>(q_in.size(-1))));
  const int64_t S = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3), Hkv = k.size(2), G = H / Hkv;
  const Blocks b = make_blocks(T, window, context.keys.defined());

  const at::Tensor queries = at::constant_pad_nd(q, {0, 0, 0, 0, 0, b.padded() - T})
                                 .view({S, b.blocks, b.block, Hkv, G, D})
                                 .permute({0, 3, 1, 4, 2, 5})
                                 .reshape({S, Hkv, b.blocks, G * b.block, D});
  const auto by_query = [&](const at::Tensor& scores) {
    return scores.view({S, Hkv, b.blocks, G, b.block, scores.size(-1)});
  };
  at::Tensor scores =
      by_query(softcap(at::matmul(queries, unfold_keys(context.keys, k, b)), cap))
          .masked_fill(window_mask(b, context.keys.defined() ? context.seen : at::Tensor(), q.device()).logical_not(),
                       kMinusInfinity);
  const int64_t sinks = context.sink_keys.defined() ? context.sink_keys.size(1) : 0;
  if (sinks > 0) {
    const at::Tensor sink_keys = context.sink_keys.to(type).permute({0, 2, 3, 1}).unsqueeze(2);
    const at::Tensor hidden = sink_mask(b, sinks, window, context.seen, q.device()).logical_not();
    scores = at::cat(
        {scores, by_query(softcap(at::matmul(queries, sink_keys), cap)).masked_fill(hidden, kMinusInfinity)}, -1);
  }
  const at::Tensor weights = at::softmax(scores, -1).view({S, Hkv, b.blocks, G * b.block, b.span() + sinks});
  at::Tensor out = at::matmul(weights.narrow(-1, 0, b.span()), unfold_keys(context.values, v, b).transpose(-1, -2));
  if (sinks > 0) {
    const at::Tensor sink_values = context.sink_values.to(type).transpose(1, 2).unsqueeze(2);
    out = out + at::matmul(weights.narrow(-1, b.span(), sinks), sink_values);
  }
  const auto by_token = [&](const at::Tensor& x) {
    return x.view({S, Hkv, b.blocks, G, b.block, -1})
        .permute({0, 2, 4, 1, 3, 5})
        .reshape({S, b.padded(), H, -1})
        .narrow(1, 0, T);
  };
  if (log_sum) *log_sum = by_token(at::logsumexp(scores, -1)).squeeze(-1);
  return by_token(out);
}

}  // namespace liger
