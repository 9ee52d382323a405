#pragma once

#include <cstdint>
#include <vector>

namespace liger {

/// Tokens of several sequences with what they have in common once: segments, each going on from the end of its parent,
/// in depth-first order, so that whatever goes on from a segment, directly or not, follows it without a gap.
struct SequenceTree {
  struct Segment {
    int64_t parent;         ///< -1: goes on from the root
    int64_t level;          ///< segments above it
    int64_t begin, length;  ///< its tokens in `ids`
    int64_t end;            ///< of the tokens of its descendants in `ids`; its own end if there are none
    int64_t position;       ///< of its first token, from the root's end
  };
  std::vector<int64_t> ids;
  std::vector<Segment> segments;

  /// Depth-first: a parent before its children, and all below one child before the next. -> the segment's number.
  int64_t add(int64_t parent, const std::vector<int64_t>& tokens);
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t levels() const;
};

}  // namespace liger
