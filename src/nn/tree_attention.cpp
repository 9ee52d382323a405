#include "nn/tree_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/sigmoid.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "liger/core/dtype.h"

namespace liger {
namespace {

using Segment = SequenceTree::Segment;

at::Tensor to_tensor(const std::vector<int64_t>& values) {
  at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

// Attention in parts: what a token has gathered, and the logarithm of the sum of its weights.
class Parts {
 public:
  Parts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)
      : q_(q),
        k_(k),
        v_(v),
        group_(q.size(1) / k.size(1)),
        out_(at::empty(q.sizes(), q.options().dtype(wide_type(q)))),
        log_sum_(at::empty({q.size(0), q.size(1)}, out_.options())) {}

  // Each token's own segment up to itself: the first part. Rows are filled up to the longest with tokens to be ignored.
  void own(const std::vector<Segment>& segments, std::span<const size_t> of, int64_t longest) {
    std::vector<int64_t> rows, cells, tokens;
    for (const size_t s : of) {
      for (int64_t t = 0; t < longest; ++t) {
        rows.push_back(segments[s].begin + std::min(t, segments[s].length - 1));
        if (t >= segments[s].length) continue;
        cells.push_back(static_cast<int64_t>(rows.size()) - 1);
        tokens.push_back(rows.back());
      }
    }
    const at::Tensor from = to_tensor(rows), to = to_tensor(tokens), at_cells = to_tensor(cells);
    const auto batched = [&](const at::Tensor& x) {
      return x.index_select(0, from).view({std::ssize(of), longest, x.size(1), x.size(2)}).transpose(1, 2);
    };
    const auto keys = [&](const at::Tensor& x) {
      return group_ == 1 ? batched(x) : batched(x.repeat_interleave(group_, 1));
    };
    const auto [part, sums] =
        at::_scaled_dot_product_flash_attention_for_cpu(batched(q_), keys(k_), keys(v_), 0.0, /*is_causal=*/true);
    const auto by_token = [&](const at::Tensor& x) {
      return x.transpose(1, 2).flatten(0, 1).index_select(0, at_cells).to(out_.scalar_type());
    };
    out_.index_copy_(0, to, by_token(part));
    log_sum_.index_copy_(0, to, by_token(sums));
  }

  // Keys that tokens [begin, end) see all of. Heads that share a key head are further queries of it.
  void add(int64_t begin, int64_t end, const at::Tensor& keys, const at::Tensor& values) {
    const int64_t n = end - begin, heads = k_.size(1), D = k_.size(2);
    if (n == 0 || keys.size(0) == 0) return;
    const at::Tensor queries =
        q_.narrow(0, begin, n).view({n, heads, group_, D}).transpose(0, 1).reshape({1, heads, n * group_, D});
    const auto batched = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
    const auto [part, sums] =
        at::_scaled_dot_product_flash_attention_for_cpu(queries, batched(keys), batched(values), 0.0, false);
    const at::Tensor own = log_sum_.narrow(0, begin, n);
    const at::Tensor other = sums.reshape({heads, n, group_}).transpose(0, 1).reshape({n, heads * group_});
    // exp(b) / (exp(a) + exp(b)) is what the new part weighs.
    const at::Tensor weight = at::sigmoid(other - own).to(out_.scalar_type()).unsqueeze(2);
    const at::Tensor gathered = part.reshape({heads, n, group_, D}).transpose(0, 1).reshape({n, heads * group_, D});
    out_.narrow(0, begin, n).lerp_(gathered.to(out_.scalar_type()), weight);
    own.copy_(at::logaddexp(own, other));
  }

  const at::Tensor& out() const { return out_; }

 private:
  at::Tensor q_, k_, v_;
  int64_t group_;
  at::Tensor out_, log_sum_;
};

// Segments of about the same length together, so that little is computed for nothing.
std::vector<std::vector<size_t>> by_length(const std::vector<Segment>& segments) {
  std::vector<size_t> order(segments.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return segments[a].length > segments[b].length; });
  std::vector<std::vector<size_t>> out;
  for (const size_t s : order) {
    constexpr int64_t kShort = 8;  // tokens that cost less than a call
    if (out.empty() || segments[s].length + kShort < segments[out.back().front()].length * 3 / 4) out.emplace_back();
    out.back().push_back(s);
  }
  return out;
}

}  // namespace

bool tree_attention_runs(const at::Tensor& q) { return q.is_cpu(); }

at::Tensor tree_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const SequenceTree& tree,
                          const at::Tensor& root_keys, const at::Tensor& root_values) {
  Parts parts(q, k, v);
  for (const std::vector<size_t>& alike : by_length(tree.segments))
    parts.own(tree.segments, alike, tree.segments[alike.front()].length);
  if (root_keys.defined()) parts.add(0, tree.tokens(), root_keys, root_values);
  for (const Segment& segment : tree.segments)
    parts.add(segment.begin + segment.length, segment.end, k.narrow(0, segment.begin, segment.length),
              v.narrow(0, segment.begin, segment.length));
  return parts.out().to(q.scalar_type());
}

}  // namespace liger
