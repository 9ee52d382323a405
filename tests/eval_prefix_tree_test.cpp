#include "eval/prefix_tree.h"

#include <gtest/gtest.h>

#include <map>

namespace liger {
namespace {

using Ids = std::vector<int64_t>;

bool always(int64_t, int64_t, int64_t) { return true; }
bool never(int64_t, int64_t, int64_t) { return false; }

// Every target as (the tokens read before it, the token), by request.
using Predictions = std::map<int64_t, std::vector<std::pair<Ids, int64_t>>>;

void walk(const PrefixTree& tree, int64_t index, Ids before, Predictions& out, int64_t& tokens) {
  const PrefixTree::Node& node = tree.node(index);
  tokens += std::ssize(node.tokens);
  for (const PrefixTree::Target& target : node.targets) {
    Ids read = before;
    read.insert(read.end(), node.tokens.begin(), node.tokens.begin() + target.offset + 1);
    out[target.request].emplace_back(std::move(read), target.token);
  }
  before.insert(before.end(), node.tokens.begin(), node.tokens.end());
  int64_t below = std::ssize(node.tokens), leaves = 0, segments = 1;
  for (const int64_t child : node.children) {
    walk(tree, child, before, out, tokens);
    below += tree.node(child).below;
    leaves += tree.node(child).leaves;
    segments += tree.node(child).segments;
  }
  EXPECT_EQ(node.below, below);
  EXPECT_EQ(node.leaves, std::max<int64_t>(1, leaves));
  EXPECT_EQ(node.segments, segments);
}

// Tokens that are read, after checking that each request's are predicted in order, from what comes before them.
int64_t tokens_read(const std::vector<ScoreRequest>& requests, const PrefixTree::Worth& worth) {
  const PrefixTree tree(requests, worth);
  Predictions found;
  int64_t tokens = 0;
  for (const int64_t root : tree.roots()) walk(tree, root, {}, found, tokens);
  for (size_t i = 0; i < requests.size(); ++i) {
    Ids read = requests[i].context;
    std::vector<std::pair<Ids, int64_t>> expected;
    for (const int64_t token : requests[i].continuation) {
      expected.emplace_back(read, token);
      read.push_back(token);
    }
    EXPECT_EQ(found[static_cast<int64_t>(i)], expected) << "request " << i;
  }
  return tokens;
}

const std::vector<ScoreRequest> kRequests = {
    {{1, 2, 3}, {4}},        // three answers of one token: nothing is read beyond their question
    {{1, 2, 3}, {5}},        //
    {{1, 2, 3}, {6, 7, 8}},  //
    {{1, 2}, {3}},           // ends inside the others
    {{1, 2, 9}, {4, 4}},     // shares less
    {{1, 2, 3}, {4}},        // again
    {{8}, {1, 2}},           //
};

TEST(PrefixTree, ReadsEachPrefixOnce) { EXPECT_EQ(tokens_read(kRequests, always), 2 + 3 + 2 + 2); }

TEST(PrefixTree, ReadsAgainWhatIsNotWorthSharing) { EXPECT_EQ(tokens_read(kRequests, never), 2 * 2 + 3 + 2 + 2); }

TEST(PrefixTree, WithoutSharingEachRequestIsAlone) {
  EXPECT_EQ(tokens_read(kRequests, {}), 3 + 3 + 5 + 2 + 4 + 3 + 2);
  EXPECT_EQ(std::ssize(PrefixTree(kRequests, {}).roots()), std::ssize(kRequests));
}

TEST(PrefixTree, AsksWithWhatWouldBeSaved) {
  std::vector<Ids> asked;
  tokens_read(kRequests, [&](int64_t tokens, int64_t children, int64_t below) {
    asked.push_back({tokens, children, below});
    return true;
  });
  EXPECT_EQ(asked, (std::vector<Ids>{{2, 2, 5}}));
}

TEST(PrefixTree, AChainOfPrefixesIsOneSequence) {
  std::vector<ScoreRequest> requests;
  Ids context = {1};
  for (int64_t i = 0; i < 300; ++i) {
    requests.push_back({context, {i + 2, 7}});
    context.push_back(i + 2);
  }
  EXPECT_EQ(tokens_read(requests, never), 301);
}

}  // namespace
}  // namespace liger
