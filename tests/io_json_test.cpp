#include "liger/io/json.h"

#include "io/text.h"
#include "io_test_util.h"

namespace liger {
namespace {

using test::put;
using test::TempDir;

TEST(Json, ReadsEveryKindOfValue) {
  const Json json =
      parse_json(R"( {"a": [1, -2, 1.5, 1e3, true, false, null, "x\u00e9\ud83d\ude00\n"], "b": {}} )", "t");
  EXPECT_EQ(json["a"], (Json{1, -2, 1.5, 1000.0, true, false, nullptr, "x\u00e9\U0001F600\n"}));
  EXPECT_TRUE(json["a"][0].is_number_unsigned());
  EXPECT_TRUE(json["a"][1].is_number_integer());
  EXPECT_TRUE(json["a"][3].is_number_float());
  EXPECT_EQ(parse_json("18446744073709551615", "t").get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(parse_json("-9223372036854775808", "t").get<int64_t>(), INT64_MIN);
  EXPECT_EQ(parse_json("\r\n\t 1", "t"), 1);
}

TEST(Json, OrderedKeepsTheOrderOfTheFile) {
  const std::string text = R"({"z":1,"a":{"y":[{"b":1,"a":2}],"x":2},"m":3})";
  EXPECT_EQ(parse_ordered_json(text, "t").dump(), text);
  EXPECT_EQ(parse_ordered_json(text, "t")["a"]["y"][0]["a"], 2);
}

TEST(Json, ReadsFiles) {
  TempDir dir;
  put(dir / "a.json", "{\"a\":\n \"b\"}\n");
  EXPECT_EQ(read_json(dir / "a.json")["a"], "b");
  EXPECT_EQ(read_ordered_json(dir / "a.json")["a"], "b");
  EXPECT_LIGER_ERROR(read_json(dir / "a.json", 11), ErrorCode::kBadInput, "a.json: expected at most 11 bytes, got 12");
  EXPECT_LIGER_ERROR(read_json(dir / "b.json"), ErrorCode::kIo, "b.json: cannot open: No such file or directory");
  put(dir / "c.json", "{\n \"a\": x}");
  EXPECT_LIGER_ERROR(read_json(dir / "c.json"), ErrorCode::kBadInput, "c.json:2:7: ");
}

std::string nested(size_t depth, const std::string& open, const std::string& close) {
  std::string text;
  for (size_t i = 0; i < depth; ++i) text += open;
  text += "1";
  for (size_t i = 0; i < depth; ++i) text += close;
  return text;
}

struct BadJson {
  std::string name, text, expected;
};
class RefusedJson : public testing::TestWithParam<BadJson> {};

TEST_P(RefusedJson, NamesPlaceAndReason) {
  EXPECT_LIGER_ERROR(parse_json(GetParam().text, "t.json"), ErrorCode::kBadInput, "t.json:" + GetParam().expected);
  EXPECT_LIGER_ERROR(parse_ordered_json(GetParam().text, "t.json"), ErrorCode::kBadInput,
                     "t.json:" + GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    Corpus, RefusedJson,
    testing::Values(
        BadJson{"Empty", "", "1:1: "}, BadJson{"Blank", " \n ", "2:2: "},
        BadJson{"DuplicateKey", "{\"a\": 1,\n \"b\": {}, \"a\": 2}", "2:11: duplicate key 'a'"},
        BadJson{"DuplicateNested", "[{\"x\": {\"k\": 1, \"k\": 1}}]", "1:17: duplicate key 'k'"},
        BadJson{"DuplicateEscaped", R"({"\"a\\": 1, "\u0022a\\": 2})", "1:14: duplicate key '\"a\\'"},
        BadJson{"DuplicateEmpty", R"({"": 1, "": 2})", "1:9: duplicate key ''"}, BadJson{"Comment", "// x\n1", "1:1: "},
        BadJson{"BlockComment", "[1 /* x */]", "1:4: "}, BadJson{"HashComment", "# x\n1", "1:1: "},
        BadJson{"NotANumber", "[NaN]", "1:2: "}, BadJson{"Infinity", "[Infinity]", "1:2: "},
        BadJson{"NegativeInfinity", "[-Infinity]", "1:3: "},
        BadJson{"ByteOrderMark", "\xef\xbb\xbf{}", "1:1: starts with a byte-order mark"},
        BadJson{"TextAfter", "{}\n x", "2:2: "}, BadJson{"SecondDocument", "{}{}", "1:3: "},
        BadJson{"NulAfter", std::string("{}\0", 3), "1:3: NUL byte"},
        BadJson{"NulAfterThenText", std::string("{}\0x", 4), "1:3: NUL byte"},
        BadJson{"NulInString", std::string("[\"a\0b\"]", 7), "1:4: NUL byte"},
        BadJson{"ControlInString", "[\"a\nb\"]", "1:4: "}, BadJson{"TabInString", "[\"\t\"]", "1:3: "},
        BadJson{"BadUtf8", "[\"\u00e9\xff\"]", "1:4: "}, BadJson{"Overlong", "[\"\xc0\x80\"]", "1:3: "},
        BadJson{"OverlongThree", "[\"\xe0\x80\xaf\"]", "1:4: "},
        BadJson{"EncodedSurrogate", "[\"\xed\xa0\x80\"]", "1:4: "},
        BadJson{"AboveUnicode", "[\"\xf4\x90\x80\x80\"]", "1:4: "}, BadJson{"CutUtf8", "[\"\xe2\x82\"]", "1:"},
        BadJson{"LoneHighSurrogate", R"(["\ud800"])", "1:"}, BadJson{"LoneLowSurrogate", R"(["\udc00"])", "1:"},
        BadJson{"SwappedSurrogates", R"(["\udc00\ud800"])", "1:"}, BadJson{"BadEscape", R"(["\x41"])", "1:4: "},
        BadJson{"ShortEscape", R"(["\u12"])", "1:"}, BadJson{"SingleQuotes", "['a']", "1:2: "},
        BadJson{"BareKey", "{a: 1}", "1:2: "}, BadJson{"NumberKey", "{1: 1}", "1:2: "},
        BadJson{"TrailingComma", "[1,]", "1:4: "}, BadJson{"TrailingCommaObject", "{\"a\": 1,}", "1:9: "},
        BadJson{"MissingComma", "[1 2]", "1:4: "}, BadJson{"MissingColon", "{\"a\" 1}", "1:6: "},
        BadJson{"Unclosed", "{\"a\": [1", "1:9: "}, BadJson{"UnclosedString", "\"abc", "1:5: "},
        BadJson{"LeadingZero", "[01]", "1:3: "}, BadJson{"LeadingPlus", "[+1]", "1:2: "},
        BadJson{"BareFraction", "[.5]", "1:2: "}, BadJson{"NoFraction", "[1.]", "1:4: "},
        BadJson{"Hex", "[0x10]", "1:3: "}, BadJson{"CapitalTrue", "[True]", "1:2: "},
        BadJson{"LongInteger", "[1, 18446744073709551616]", "1:25: integer 18446744073709551616 does not fit 64 bits"},
        BadJson{"LongNegative", "[-9223372036854775809]", "1:22: integer -9223372036854775809 does not fit 64 bits"},
        BadJson{"NumberOverflow", "[1e999]", "1:"},
        BadJson{"Deep", nested(129, "[", "]"), "1:129: nesting deeper than 128"},
        BadJson{"DeepObject", nested(129, "{\"a\":", "}"), "1:641: nesting deeper than 128"},
        BadJson{"VeryDeep", nested(1000000, "[", "]"), "1:129: nesting deeper than 128"},
        BadJson{"UnclosedDeep", std::string(1000000, '['), "1:129: nesting deeper than 128"},
        BadJson{"UnclosedDeepObject", nested(1000000, "{\"a\":", ""), "1:641: nesting deeper than 128"}),
    [](const auto& info) { return info.param.name; });

TEST(Json, NestingOf128IsFine) {
  EXPECT_NO_THROW(parse_json(nested(128, "[", "]"), "t"));
  EXPECT_NO_THROW(parse_ordered_json(nested(128, "{\"a\":", "}"), "t"));
}

TEST(Json, MessagesAreOneShortPrintableLine) {
  const std::string long_key(100000, 'k');
  const Error long_error =
      test::error_of([&] { parse_json("{\"" + long_key + "\": 1, \"" + long_key + "\": 1}", "t"); });
  EXPECT_LT(std::string(long_error.what()).size(), 200u);
  const Error long_token = test::error_of([&] { parse_json("[\"" + long_key, "t"); });
  EXPECT_LT(std::string(long_token.what()).size(), 400u);
  EXPECT_LIGER_ERROR(parse_json(R"({"\u001b[2J\n": 1, "\u001b[2J\n": 1})", "t"), ErrorCode::kBadInput,
                     "duplicate key '\\x1B[2J\\x0A'");
}

TEST(Json, ManyKeysCostNoQuadraticTime) {
  std::string text = "{";
  constexpr int kKeys = 200000;  // as a vocabulary; quadratic insertion would take minutes
  for (int i = 0; i < kKeys; ++i) text += "\"token" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  const std::string good = text + "\"last\":0}";
  EXPECT_EQ(parse_ordered_json(good, "t").size(), kKeys + 1u);
  EXPECT_EQ(parse_json(good, "t").size(), kKeys + 1u);
  EXPECT_LIGER_ERROR(parse_ordered_json(text + "\"token7\":0}", "t"), ErrorCode::kBadInput, "duplicate key 'token7'");
}

TEST(Json, CutAtEveryByteIsAnError) {
  const std::string text = R"({"a": [1, -2.5e3, true, null, "x\u00e9\ud83d\ude00é"], "b": {"c": false}})";
  EXPECT_NO_THROW(parse_json(text, "t"));
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_THROW(parse_json(text.substr(0, size), "t"), Error) << size;
  }
}

TEST(Text, FindsInvalidUtf8) {
  using detail::find_invalid_utf8;
  constexpr size_t kValid = std::string_view::npos;
  EXPECT_EQ(find_invalid_utf8(""), kValid);
  EXPECT_EQ(find_invalid_utf8("a\u00e9\u20ac\U0001F600\U0010FFFF\xed\x9f\xbf\xee\x80\x80"), kValid);
  for (const char* bad : {"\x80", "\xbf", "\xc0\xaf", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x9f\xbf", "\xe2\x82",
                          "\xe2(\xa1", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x9f\x98",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xfe"}) {
    EXPECT_EQ(find_invalid_utf8(cat("ab", bad)), 2u) << detail::printable(bad);
    EXPECT_EQ(find_invalid_utf8(cat("ab", bad, "x")), 2u) << detail::printable(bad);
  }
}

TEST(Text, PrintableEscapesAndCuts) {
  EXPECT_EQ(detail::printable("a\u00e9 b"), "a\u00e9 b");
  EXPECT_EQ(detail::printable("\x1b[0m\n\x7f\xff\u0085"), "\\x1B[0m\\x0A\\x7F\\xFF\\xC2\\x85");
  EXPECT_EQ(detail::printable("abcdef", 3), "abc...");
  EXPECT_EQ(detail::printable("abc", 3), "abc");
}

}  // namespace
}  // namespace liger
