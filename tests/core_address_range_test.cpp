#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "core/address_range.h"

namespace liger {
namespace {

constexpr size_t kPage = 4096;

TEST(AddressRange, FreedNeighboursAreJoinedAndUsedAgain) {
  std::vector<char> memory(16 * kPage);
  AddressRange range(memory.data(), memory.size());
  char* a = range.take(2 * kPage);
  char* b = range.take(3 * kPage - 5);
  char* c = range.take(1);
  char* d = range.take(kPage);
  EXPECT_EQ(a, memory.data());
  EXPECT_EQ(b, a + 2 * kPage);
  EXPECT_EQ(c, b + 3 * kPage);
  EXPECT_EQ(range.extent(), 7 * kPage);
  EXPECT_TRUE(range.give_back(c));
  EXPECT_TRUE(range.give_back(a));
  EXPECT_EQ(range.take(kPage), c) << "the smallest hole";
  EXPECT_TRUE(range.give_back(c));
  EXPECT_TRUE(range.give_back(b));  // joins a and c
  EXPECT_EQ(range.take(6 * kPage), a);
  EXPECT_TRUE(range.give_back(a));
  EXPECT_TRUE(range.give_back(d));
  EXPECT_EQ(range.extent(), 0u);
}

TEST(AddressRange, KnowsWhatIsNotItsOwnAndWhenItIsFull) {
  std::vector<char> memory(4 * kPage);
  AddressRange range(memory.data(), memory.size());
  EXPECT_FALSE(range.give_back(memory.data()));
  EXPECT_EQ(range.take(5 * kPage), nullptr);
  EXPECT_EQ(range.take(~size_t{0}), nullptr);
  char* all = range.take(4 * kPage);
  EXPECT_EQ(all, memory.data());
  EXPECT_EQ(range.take(1), nullptr);
  EXPECT_TRUE(range.give_back(all));
  EXPECT_FALSE(range.give_back(all));
}

TEST(AddressRange, PartsNeverOverlap) {
  std::vector<char> memory(256 * kPage);
  AddressRange range(memory.data(), memory.size());
  struct Part {
    char* at;
    size_t size;
    char mark;
  };
  std::vector<Part> parts;
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 == 0) {
      const size_t size = 1 + random() % (20 * kPage);
      if (char* at = range.take(size)) {
        parts.push_back({at, size, static_cast<char>(random())});
        std::memset(at, parts.back().mark, size);
      }
    } else if (!parts.empty()) {
      std::swap(parts[random() % parts.size()], parts.back());
      const Part part = parts.back();
      parts.pop_back();
      ASSERT_EQ(std::string_view(part.at, part.size).find_first_not_of(part.mark), std::string_view::npos);
      ASSERT_TRUE(range.give_back(part.at));
    }
  }
  for (const Part& part : parts) EXPECT_TRUE(range.give_back(part.at));
  EXPECT_EQ(range.extent(), 0u);
}

}  // namespace
}  // namespace liger
