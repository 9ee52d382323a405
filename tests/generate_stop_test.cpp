#include "liger/generate/stop.h"

#include <gtest/gtest.h>

#include "liger/error.h"

namespace liger {
namespace {

// The pieces pushed one after the other, "|" between what came out of each, then what was held back.
std::string run(std::vector<std::string> stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(std::move(stops));
  std::string out;
  for (const std::string& piece : pieces) {
    if (matcher.stopped()) break;
    out += matcher.push(piece) + "|";
  }
  return out + (matcher.stopped() ? "stopped" : matcher.flush());
}

TEST(StopMatcher, WithoutStopsTextPasses) { EXPECT_EQ(run({}, {"ab", "", "c"}), "ab||c|"); }

TEST(StopMatcher, EndsBeforeTheStop) { EXPECT_EQ(run({"END"}, {"abENDcd", "e"}), "ab|stopped"); }

TEST(StopMatcher, NeverPrintsHalfOfAStop) {
  EXPECT_EQ(run({"END"}, {"abE", "N", "D", "x"}), "ab|||stopped");
  EXPECT_EQ(run({"END"}, {"abE", "N", "X", "y"}), "ab||ENX|y|");
  EXPECT_EQ(run({"END"}, {"abEN"}), "ab|EN");  // the text ends: it was none
}

TEST(StopMatcher, ABeginningInsideABeginning) {
  EXPECT_EQ(run({"aab"}, {"a", "a", "a", "b"}), "||a||stopped");
  EXPECT_EQ(run({"aab"}, {"aaaa", "c"}), "aa|aac|");
}

TEST(StopMatcher, TheFirstOfSeveral) {
  EXPECT_EQ(run({"cd", "b"}, {"abcd"}), "a|stopped");
  EXPECT_EQ(run({"\n\n", "User:"}, {"hi\n", "User", ":"}), "hi|\n||stopped");
}

TEST(StopMatcher, BytesOfACharacterMayComeApart) { EXPECT_EQ(run({"é"}, {"a\xc3", "\xa9z"}), "a||stopped"); }

TEST(StopMatcher, AnEmptyStopIsRefused) { EXPECT_THROW(StopMatcher({""}), Error); }

}  // namespace
}  // namespace liger
