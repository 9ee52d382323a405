#include "eval/prefix_tree.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace liger {

int64_t PrefixTree::length(int64_t request) const {
  return std::ssize(requests_[request].context) + std::ssize(requests_[request].continuation) - 1;
}

int64_t PrefixTree::token(int64_t request, int64_t position) const {
  const ScoreRequest& r = requests_[request];
  const int64_t context = std::ssize(r.context);
  return position < context ? r.context[position] : r.continuation[position - context];
}

int64_t PrefixTree::shared(int64_t a, int64_t b) const {
  const int64_t most = std::min(length(a), length(b));
  int64_t n = 0;
  while (n < most && token(a, n) == token(b, n)) ++n;
  return n;
}

PrefixTree::PrefixTree(std::span<const ScoreRequest> requests, const Worth& worth)
    : requests_(requests), order_(requests.size()) {
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
    const int64_t n = shared(a, b);
    return n == length(a) || n == length(b) ? length(a) < length(b) : token(a, n) < token(b, n);
  });
  if (worth) {
    if (!order_.empty()) roots_ = build(order_, 0, worth);
  } else {
    for (size_t i = 0; i < order_.size(); ++i) roots_.push_back(build(Range(order_).subspan(i, 1), 0, worth).front());
  }
  std::stable_sort(roots_.begin(), roots_.end(),
                   [&](int64_t a, int64_t b) { return node(a).longest > node(b).longest; });
}

// What sorted sequences have in common from `begin` on, with the targets in it. Sequences that all others begin with
// end in it; the others remain in `range`.
PrefixTree::Node PrefixTree::common(Range& range, int64_t begin) const {
  Node node;
  const Range all = range;
  int64_t end = shared(range.front(), range.back());
  while (range.size() > 1 && length(range.front()) == end) {
    range = range.subspan(1);
    end = shared(range.front(), range.back());
  }
  for (int64_t t = begin; t < end; ++t) node.tokens.push_back(token(range.back(), t));
  for (const int64_t i : all) {
    const ScoreRequest& request = requests_[i];
    const int64_t first = std::ssize(request.context) - 1;  // what predicts the first token
    for (int64_t t = std::max(first, begin); t < std::min(end, length(i)); ++t)
      node.targets.push_back({t - begin, request.continuation[t - first], i});
  }
  if (length(range.front()) == end) range = {};
  return node;
}

std::vector<int64_t> PrefixTree::build(Range range, int64_t begin, const Worth& worth) {
  Node node = common(range, begin);
  const int64_t own = std::ssize(node.tokens), end = begin + own;
  std::vector<int64_t> children;
  int64_t below = 0, longest = 0, segments = 1, leaves = 0;
  for (size_t first = 0, last = 0; first < range.size(); first = last) {
    while (last < range.size() && token(range[last], end) == token(range[first], end)) ++last;
    for (const int64_t child : build(range.subspan(first, last - first), end, worth)) children.push_back(child);
  }
  for (const int64_t child : children) {
    below += this->node(child).below;
    longest = std::max(longest, this->node(child).longest);
    segments += this->node(child).segments;
    leaves += this->node(child).leaves;
  }
  std::stable_sort(node.targets.begin(), node.targets.end(),
                   [](const Target& a, const Target& b) { return a.offset < b.offset; });
  if (!children.empty() && (own == 0 || !worth(own, std::ssize(children), below))) {  // each child begins with it
    for (const int64_t index : children) {
      Node& child = nodes_[static_cast<size_t>(index)];
      child.tokens.insert(child.tokens.begin(), node.tokens.begin(), node.tokens.end());
      child.below += own;
      child.longest += own;
      for (Target& target : child.targets) target.offset += own;
    }
    std::vector<Target>& first = nodes_[static_cast<size_t>(children.front())].targets;
    first.insert(first.begin(), node.targets.begin(), node.targets.end());
    return children;
  }
  node.children = std::move(children);
  node.below = below + own;
  node.longest = longest + own;
  node.segments = segments;
  node.leaves = std::max<int64_t>(1, leaves);
  nodes_.push_back(std::move(node));
  return {std::ssize(nodes_) - 1};
}

}  // namespace liger
