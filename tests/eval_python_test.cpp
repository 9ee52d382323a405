// What lm-eval leaves to Python. Expected values are CPython 3.11's.

#include <gtest/gtest.h>

#include "eval/python_case.h"
#include "eval/python_random.h"
#include "eval/python_text.h"
#include "eval/python_value.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger::eval {
namespace {

using Rows = std::vector<int64_t>;

TEST(PythonRandom, BelowFollowsCpython) {
  PythonRandom random(1234);
  for (const uint32_t expected : {989u, 796u, 451u, 119u, 7u, 92u, 932u, 965u}) {
    EXPECT_EQ(random.below(1000), expected);
  }
}

TEST(PythonRandom, SampleFollowsCpython) {
  EXPECT_EQ(PythonRandom(1234).sample(10, 3), (Rows{7, 1, 0}));
  EXPECT_EQ(PythonRandom(1234).sample(7, 7), (Rows{6, 3, 0, 4, 5, 2, 1}));
  EXPECT_EQ(PythonRandom(0).sample(1000, 10), (Rows{864, 394, 776, 911, 430, 41, 265, 988, 523, 497}));
  EXPECT_EQ(PythonRandom(1234).sample(2376, 25),
            (Rows{1805, 478,  30,  371, 143, 343, 403, 1452, 969,  71,   126, 64,  1417,
                  1983, 1898, 608, 373, 749, 468, 59,  2060, 1993, 1023, 264, 2216}));
}

TEST(PythonRandom, SampleChangesMethodWhereCpythonDoes) {
  // Up to 21 rows (85 for a sample of six) the population is copied and shrinks; above, draws are repeated.
  EXPECT_EQ(PythonRandom(1234).sample(21, 5), (Rows{14, 3, 0, 2, 1}));
  EXPECT_EQ(PythonRandom(1234).sample(22, 5), (Rows{14, 3, 0, 2, 18}));
  EXPECT_EQ(PythonRandom(1234).sample(85, 6), (Rows{56, 14, 0, 11, 74, 4}));
  EXPECT_EQ(PythonRandom(1234).sample(86, 6), (Rows{56, 14, 0, 11, 74, 4}));
}

TEST(PythonRandom, OneStreamServesSampleAfterSample) {
  PythonRandom random(1234);
  EXPECT_EQ(random.sample(50, 6), (Rows{49, 28, 7, 0, 5, 37}));
  EXPECT_EQ(random.sample(50, 6), (Rows{2, 42, 44, 5, 6, 22}));
  EXPECT_EQ(random.sample(50, 6), (Rows{15, 1, 48, 47, 22, 41}));
}

TEST(PythonRandom, StateIsRenewedAfter624Words) {
  PythonRandom random(1234);
  uint32_t last = 0;
  for (int i = 0; i < 1300; ++i) last = random.below(0xffffffffu);  // every draw takes one word
  EXPECT_EQ(last, 2861468013u);
}

TEST(PythonRandom, RealFollowsCpython) {
  PythonRandom random(7);
  EXPECT_EQ(random.real(), 0.32383276483316237);
  EXPECT_EQ(random.real(), 0.15084917392450192);
}

TEST(PythonRandom, RefusesMoreThanThereIs) { EXPECT_THROW(PythonRandom(1).sample(4, 5), Error); }

TEST(PythonText, TrailingSpaceIsUnicode) {
  EXPECT_EQ(trailing_space_bytes("abc"), 0u);
  EXPECT_EQ(trailing_space_bytes("abc \n\t"), 3u);
  EXPECT_EQ(trailing_space_bytes("abc\u00a0\u2003\u3000"), 8u);
  EXPECT_EQ(trailing_space_bytes("abc\u200b"), 0u);  // zero width space is no white space
  EXPECT_EQ(trailing_space_bytes("é"), 0u);
  EXPECT_EQ(trailing_space_bytes("a\x1c\x1f"), 2u);
  EXPECT_EQ(trailing_space_bytes("  "), 2u);
  EXPECT_EQ(trailing_space_bytes(""), 0u);
}

TEST(PythonCase, FollowsUnicodesFullRules) {
  EXPECT_EQ(python_lower("ΟΔΥΣΣΕΎΣ ΣΑΣ. İX"), "οδυσσεύς σας. i\u0307x");
  EXPECT_EQ(python_lower("Σ AΣ\u00ad AΣ\u00adb AΣ.b"), "σ aς\u00ad aσ\u00adb aσ.b");
  EXPECT_EQ(python_upper("straße ŉ ﬃ ǆ"), "STRASSE ʼN FFI Ǆ");
  EXPECT_EQ(python_capitalize("ǆaba DRAMA ΣΟΣ"), "ǅaba drama σος");
  EXPECT_EQ(python_capitalize("ßTOP"), "Sstop");
  EXPECT_EQ(python_capitalize(""), "");
  EXPECT_EQ(python_title("they're ǆb x1y ʰb"), "They'Re ǅb X1Y ʰb");
}

TEST(PythonValue, StrAndRepr) {
  const OrderedJson value = {{"a", {1, 2.0, true, nullptr}}, {"b", "it's"}, {"c", "\"'\n\\"}};
  EXPECT_EQ(python_str(value), "{'a': [1, 2.0, True, None], 'b': \"it's\", 'c': '\"\\'\\n\\\\'}");
  EXPECT_EQ(python_str("it's"), "it's");
  EXPECT_EQ(split(" a  b\n"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(split("a,b,,c", ",", 2), (std::vector<std::string>{"a", "b", ",c"}));
  EXPECT_EQ(replaced("aaa", "a", "bb", 2), "bbbba");
  EXPECT_EQ(stripped("xxaxx", "x", Ends::kLeft), "axx");
  EXPECT_EQ(stripped("\u3000a\u00a0"), "a");
  EXPECT_TRUE(are_equal(OrderedJson{{"a", 1}, {"b", 2}}, OrderedJson{{"b", 2.0}, {"a", 1}}));
  EXPECT_FALSE(are_equal(OrderedJson{{"a", 1}}, OrderedJson{{"a", "1"}}));
}

TEST(PythonText, LengthCountsCodePoints) {
  EXPECT_EQ(code_points(""), 0);
  EXPECT_EQ(code_points("naïve 中文 🙂"), 10);
}

TEST(PythonText, Repr) {
  EXPECT_EQ(python_repr(0.0), "0.0");
  EXPECT_EQ(python_repr(-0.0), "-0.0");
  EXPECT_EQ(python_repr(1.0 / 3), "0.3333333333333333");
  EXPECT_EQ(python_repr(-13.75), "-13.75");
  EXPECT_EQ(python_repr(100.0), "100.0");
  EXPECT_EQ(python_repr(1e15), "1000000000000000.0");
  EXPECT_EQ(python_repr(1e16), "1e+16");
  EXPECT_EQ(python_repr(123456789012345680.0), "1.2345678901234568e+17");
  EXPECT_EQ(python_repr(0.0001), "0.0001");
  EXPECT_EQ(python_repr(0.00012345), "0.00012345");
  EXPECT_EQ(python_repr(1e-5), "1e-05");
  EXPECT_EQ(python_repr(5e-324), "5e-324");
  EXPECT_EQ(python_repr(1.7976931348623157e308), "1.7976931348623157e+308");
}

TEST(PythonText, JsonAndItsHash) {
  const OrderedJson document = {{"goal", "Say \"hi\"\n\tto \u00e9\u4e2d \x7f\x01"},
                                {"sol1", "a"},
                                {"n", 1},
                                {"x", 0.5},
                                {"e", OrderedJson::array()},
                                {"o", OrderedJson::object()},
                                {"choices", {{"text", {"a", "b"}}, {"label", {"A", "B"}}}},
                                {"b", true},
                                {"z", nullptr},
                                {"big", 1e16}};
  EXPECT_EQ(python_json(document, 0),
            "{\"goal\": \"Say \\\"hi\\\"\\n\\tto \u00e9\u4e2d \x7f\\u0001\", \"sol1\": \"a\", \"n\": 1, \"x\": 0.5, "
            "\"e\": [], \"o\": {}, \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"A\", \"B\"]}, \"b\": true, "
            "\"z\": null, \"big\": 1e+16}");
  EXPECT_EQ(sha256_hex(python_json(document, 2)), "f1d064b5d16edce359db5968631dad636801f8f2a39b792b57ea8272b483a602");
}

}  // namespace
}  // namespace liger::eval
