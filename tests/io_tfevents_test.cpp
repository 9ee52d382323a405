#include "io/tfevents.h"

#include <unistd.h>

#include "io_test_util.h"
#include "tfevents_testing.h"

namespace liger {
namespace {

using namespace detail;
using test::read_tfevents;
using test::TfEvent;

TEST(Tfevents, Crc32cHasItsKnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

// Every byte of a record, written out by hand: 1.5 is 0x3ff8000000000000, 0.5f is 0x3f000000.
TEST(Tfevents, ARecordByteByByte) {
  const TaggedScalar scalar[] = {{"a/b", 0.5}};
  const std::string record = tfevents_scalars_record(1.5, 300, scalar);
  const std::string event(
      "\x09\0\0\0\0\0\0\xf8\x3f"  // 1: double 1.5
      "\x10\xac\x02"              // 2: varint 300
      "\x2a\x0c\x0a\x0a"          // 5: Summary of 12 bytes {1: Value of 10 bytes
      "\x0a\x03"
      "a/b"  //   {1: tag
      "\x15\0\0\0\x3f",
      26);  //    2: float 0.5}}
  ASSERT_EQ(record.size(), 8 + 4 + event.size() + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\x1a\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, event.size()), event);
  EXPECT_EQ(read_tfevents(record).size(), 1u);  // the checksums are right
}

TEST(Tfevents, AFileReadsBack) {
  const TaggedScalar first[] = {{"train/loss", 2.25}, {"train/lr", 1e-3}}, second[] = {{"eval/loss", -1e30}};
  const std::string file = tfevents_version_record(10.5) + tfevents_scalars_record(11, 0, first) +
                           tfevents_scalars_record(12, int64_t{1} << 40, second) +
                           tfevents_text_record(13, 7, "sample/0", "two\nlines, \u00e9");
  const std::vector<TfEvent> events = read_tfevents(file);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[0].wall_time, 10.5);
  EXPECT_EQ(events[1].step, 0);
  EXPECT_EQ(events[1].scalars, (std::map<std::string, float>{{"train/loss", 2.25f}, {"train/lr", 1e-3f}}));
  EXPECT_EQ(events[2].step, int64_t{1} << 40);
  EXPECT_EQ(events[2].scalars, (std::map<std::string, float>{{"eval/loss", -1e30f}}));
  EXPECT_EQ(events[3].texts, (std::map<std::string, std::string>{{"sample/0", "two\nlines, \u00e9"}}));
}

TEST(Tfevents, TheReaderOfTheseTestsSeesEveryFlippedBit) {
  const TaggedScalar scalar[] = {{"train/loss", 2.25}};
  const std::string good = tfevents_scalars_record(11, 7, scalar);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] ^= static_cast<char>(1 << bit % 8);
    EXPECT_THROW(read_tfevents(bad), std::runtime_error) << bit;
  }
}

TEST(Tfevents, NameSaysWhenWhereAndWho) {
  const std::string name = tfevents_name(1795325405.8);
  EXPECT_TRUE(name.starts_with("events.out.tfevents.1795325405.")) << name;
  EXPECT_TRUE(name.ends_with("." + std::to_string(getpid()) + ".0")) << name;
  EXPECT_EQ(name.find('/'), std::string::npos);
}

}  // namespace
}  // namespace liger
