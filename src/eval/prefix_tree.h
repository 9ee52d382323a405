#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "liger/eval/request.h"

namespace liger {

/// Requests by what the sequences that a model reads for them (all but a request's last token) begin with.
class PrefixTree {
 public:
  /// A token whose probability is asked for, after token `offset` of its node.
  struct Target {
    int64_t offset, token, request;
  };
  /// A run of tokens that goes on from its parent's.
  struct Node {
    std::vector<int64_t> tokens;
    std::vector<int64_t> children;
    std::vector<Target> targets;  ///< by offset
    int64_t below = 0;            ///< tokens of the node and of all under it
    int64_t longest = 0;          ///< of the ways down from its first token
    int64_t segments = 1;         ///< the node and all under it
    int64_t leaves = 1;           ///< ways down
  };
  /// Whether `tokens` that several sequences share are worth being read apart from what goes on from them: `below`
  /// tokens in `children` segments.
  using Worth = std::function<bool(int64_t tokens, int64_t children, int64_t below)>;

  /// What is not worth it is read by each that needs it; a sequence that another one begins with is read with it in
  /// any case. Without `worth`, each request is a sequence of its own.
  PrefixTree(std::span<const ScoreRequest> requests, const Worth& worth);

  const Node& node(int64_t index) const { return nodes_[static_cast<size_t>(index)]; }
  /// What goes on from nothing, the longest first.
  const std::vector<int64_t>& roots() const { return roots_; }

 private:
  using Range = std::span<const int64_t>;  // of order_
  std::vector<int64_t> build(Range range, int64_t begin, const Worth& worth);
  Node common(Range& range, int64_t begin) const;
  int64_t length(int64_t request) const;
  int64_t token(int64_t request, int64_t position) const;
  int64_t shared(int64_t a, int64_t b) const;

  std::span<const ScoreRequest> requests_;
  std::vector<Node> nodes_;
  std::vector<int64_t> order_, roots_;
};

}  // namespace liger
