#include "core/sequence_tree.h"

#include <algorithm>

#include "liger/error.h"

namespace liger {

int64_t SequenceTree::add(int64_t parent, const std::vector<int64_t>& tokens) {
  LIGER_CHECK(!tokens.empty(), "sequence tree: segment ", segments.size(), " has no tokens");
  const auto length = static_cast<int64_t>(tokens.size());
  Segment segment{parent, 0, this->tokens(), length, this->tokens() + length, 0};
  if (parent >= 0) {
    const Segment& above = segments.at(static_cast<size_t>(parent));
    LIGER_CHECK(above.end == segment.begin, "sequence tree: segment ", segments.size(), " is not added depth-first");
    segment.level = above.level + 1;
    segment.position = above.position + above.length;
  }
  for (int64_t i = parent; i >= 0; i = segments[static_cast<size_t>(i)].parent)
    segments[static_cast<size_t>(i)].end = segment.end;
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  segments.push_back(segment);
  return static_cast<int64_t>(segments.size()) - 1;
}

int64_t SequenceTree::levels() const {
  int64_t levels = 0;
  for (const Segment& segment : segments) levels = std::max(levels, segment.level + 1);
  return levels;
}

}  // namespace liger
