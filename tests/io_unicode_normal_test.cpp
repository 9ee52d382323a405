#include "io/unicode_normal.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "io/normalizer.h"
#include "io/unicode_tables.h"
#include "io/utf8.h"

namespace liger::detail {
namespace {

std::string in_form(NormalForm form, std::string_view text) {
  std::string buffer;
  return std::string(normalize(form, text, buffer));
}
constexpr NormalForm kForms[] = {NormalForm::kC, NormalForm::kD, NormalForm::kKC, NormalForm::kKD};

TEST(NormalForms, PutTogetherAndTakeApart) {
  EXPECT_EQ(in_form(NormalForm::kC, "e\u0301"), "\u00e9");
  EXPECT_EQ(in_form(NormalForm::kD, "\u00e9"), "e\u0301");
  EXPECT_EQ(in_form(NormalForm::kC, "\u212B \u2126"), "\u00C5 \u03A9");  // signs that are letters
  EXPECT_EQ(in_form(NormalForm::kC, "\ufb01\u00b2"), "\ufb01\u00b2");
  EXPECT_EQ(in_form(NormalForm::kKC, "\ufb01\u00b2"), "fi2");
  EXPECT_EQ(in_form(NormalForm::kKD, "\u01c4"), "DZ\u030c");
  EXPECT_EQ(in_form(NormalForm::kKC, "\u1e9b\u0323"), "\u1e69");
  EXPECT_EQ(in_form(NormalForm::kC, "\u0958"), "\u0915\u093c");  // excluded from being put together
  EXPECT_EQ(in_form(NormalForm::kC, "\u0344"), "\u0308\u0301");
  EXPECT_EQ(in_form(NormalForm::kC, ""), "");
}

TEST(NormalForms, MarksAreOrderedByTheirClass) {
  EXPECT_EQ(in_form(NormalForm::kC, "a\u0301\u0323"), "\u1ea1\u0301");
  EXPECT_EQ(in_form(NormalForm::kD, "\u1e69"), "s\u0323\u0307");
  EXPECT_EQ(in_form(NormalForm::kC, "s\u0307\u0323x"), "\u1e69x");
  // One of the same class stands between the letter and its second accent.
  EXPECT_EQ(in_form(NormalForm::kC, "a\u0305\u0301"), "a\u0305\u0301");
  EXPECT_EQ(in_form(NormalForm::kC, "\u0f71\u0f73"), in_form(NormalForm::kD, "\u0f73\u0f71"));
}

TEST(NormalForms, Hangul) {
  EXPECT_EQ(in_form(NormalForm::kC, "\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(in_form(NormalForm::kC, "\ud558\u11ab"), "\ud55c");
  EXPECT_EQ(in_form(NormalForm::kD, "\ud55c\uae00"), "\u1112\u1161\u11ab\u1100\u1173\u11af");
  EXPECT_EQ(in_form(NormalForm::kC, "\ud55c\u11ab"), "\ud55c\u11ab");  // has its last consonant already
  EXPECT_EQ(in_form(NormalForm::kC, "\u1100\u11a7"), "\u1100\u11a7");
}

TEST(NormalForms, TextInItsFormIsNotCopied) {
  std::string buffer = "untouched";
  for (const std::string_view text : {"", "plain text", "na\u00efve caf\u00e9 \u864e \ud55c \U0001F42F"}) {
    EXPECT_EQ(normalize(NormalForm::kC, text, buffer).data(), text.data());
  }
  EXPECT_EQ(buffer, "untouched");
}

std::string random_text(std::mt19937& random, size_t length) {
  constexpr char32_t kStarts[] = {'a',    0xC0,   0x300,  0x314,  0x590,  0x915,  0x93C,   0xF70,
                                  0x1100, 0x1161, 0x11A8, 0x1EA0, 0xAC00, 0xAC1B, 0x1D15E, 0x2F800};
  std::string text;
  for (size_t i = 0; i < length; ++i) append_char(text, kStarts[random() % std::size(kStarts)] + random() % 8);
  return text;
}

TEST(NormalForms, AreFormsOfTheSameText) {
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    const std::string text = random_text(random, random() % 10);
    for (const NormalForm form : kForms) {
      const std::string once = in_form(form, text);
      EXPECT_EQ(in_form(form, once), once);
      EXPECT_EQ(in_form(form, in_form(NormalForm::kD, text)), once);
      EXPECT_EQ(in_form(form, in_form(NormalForm::kC, text)), once);
    }
  }
}

// The way for many marks on one character and the way for few give the same.
TEST(NormalForms, ManyMarksAreOrderedAsFew) {
  std::mt19937 random(6);
  for (int round = 0; round < 300; ++round) {
    std::vector<char32_t> marks;
    for (size_t count = 20 + random() % 60; count > 0; --count) marks.push_back(0x300 + random() % 0x40);
    std::string text = "a";
    for (const char32_t mark : marks) append_char(text, mark);
    const std::string parts = in_form(NormalForm::kD, text).substr(1);
    // In order: no two neighbours that would change places.
    std::vector<std::string> chars;
    for (size_t at = 0, next = 0; at < parts.size(); at = next) {
      next_char(parts, next);
      chars.push_back(parts.substr(at, next - at));
    }
    for (size_t i = 0; i + 1 < chars.size(); ++i) {
      EXPECT_EQ(in_form(NormalForm::kD, chars[i] + chars[i + 1]), chars[i] + chars[i + 1]);
    }
  }
}

double seconds_for(const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  for (const NormalForm form : kForms) in_form(form, text);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Eight times the marks on one character may take about eight times as long, not 64 times.
TEST(NormalForms, TimeIsLinearInTheMarks) {
  std::mt19937 random(7);
  const auto marks = [&](size_t count) {
    std::string text = "a";
    while (count-- > 0) append_char(text, 0x300 + random() % 0x40);
    return text;
  };
  const std::string small = marks(250'000), large = marks(2'000'000);
  const double once = seconds_for(small);
  EXPECT_LT(seconds_for(large), 24 * once + 0.5);
}

TEST(Lowercase, FollowsTheReference) {
  std::string buffer;
  EXPECT_EQ(lowercase("ABC \u00c9\u0130\u03a3 \u1e9e \U00010400", buffer), "abc \u00e9i\u0307\u03c3 \u00df \U00010428");
  EXPECT_EQ(lowercase("", buffer), "");
}

std::string normalized(const char* json, std::string_view text) {
  const Json parsed = Json::parse(json);
  return Normalizer(&parsed).apply(text);
}

TEST(Normalizer, StepsFollowEachOther) {
  EXPECT_EQ(normalized(R"({"type": "Strip"})", " \u3000a b\u2028\n"), "a b");
  EXPECT_EQ(normalized(R"({"type": "Strip", "strip_left": false, "strip_right": true})", " a "), " a");
  EXPECT_EQ(normalized(R"({"type": "Strip", "strip_left": true, "strip_right": false})", " a "), "a ");
  EXPECT_EQ(normalized(R"({"type": "Strip"})", " \n "), "");
  const char* all = R"({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip"},
      {"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
      {"type": "NFD"}]})";
  EXPECT_EQ(normalized(all, "  \ufb01 E\u0301 "), "_fi_e\u0301");
  EXPECT_EQ(normalized(all, "   "), "");
  EXPECT_EQ(normalized(all, "x"), "_x");
}

}  // namespace
}  // namespace liger::detail
