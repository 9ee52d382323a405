#include <algorithm>
#include <random>

#include "io/added_tokens.h"
#include "io/bpe_merge.h"
#include "io/byte_level.h"
#include "io/split_pattern.h"
#include "io/text.h"
#include "io/unicode_tables.h"
#include "io/utf8.h"
#include "tokenizer_testing.h"

namespace liger::detail {
namespace {

/// The definition: join the leftmost of the pairs with the lowest rank until there is none.
std::vector<int32_t> merge_by_definition(std::vector<int32_t> symbols, const MergeTable& table) {
  while (true) {
    uint32_t best = MergeTable::kNone;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const uint32_t rank = table.rank_of(symbols[i], symbols[i + 1]);
      if (rank < best) best = rank, at = i;
    }
    if (best == MergeTable::kNone) return symbols;
    symbols[at] = table.at(best).result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

/// Merges of random symbols, in random order: a later result may have a lower rank than what it is made of.
MergeTable random_merges(std::mt19937& random, int letters, int count) {
  std::vector<uint32_t> ranks(static_cast<size_t>(count));
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = static_cast<uint32_t>(i);
  std::shuffle(ranks.begin(), ranks.end(), random);
  MergeTable table(ranks.size());
  int known = letters;
  for (const uint32_t rank : ranks) {
    const auto pick = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(known)); };
    if (table.insert(rank, {pick(), pick(), known})) ++known;
  }
  return table;
}

TEST(BpeMerge, EqualsItsDefinition) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const int letters = 1 + static_cast<int>(random() % 4);
    const MergeTable table = random_merges(random, letters, 1 + static_cast<int>(random() % 30));
    std::vector<int32_t> symbols(random() % 40);
    for (int32_t& symbol : symbols) symbol = static_cast<int32_t>(random() % static_cast<uint32_t>(letters));
    const auto expected = merge_by_definition(symbols, table);
    merge_symbols(symbols, table);
    EXPECT_EQ(symbols, expected);
  }
}

// Long enough for the queue that is made for long input.
TEST(BpeMerge, LongInputEqualsItsDefinition) {
  std::mt19937 random(2);
  const MergeTable table = random_merges(random, 3, 12);
  std::vector<int32_t> piece(200), symbols, expected;
  const int32_t wall = 1000;  // merges with nothing, so that the definition can be asked piece by piece
  for (int i = 0; i < 2000; ++i) {
    for (int32_t& symbol : piece) symbol = static_cast<int32_t>(random() % 3);
    const auto merged = merge_by_definition(piece, table);
    symbols.insert(symbols.end(), piece.begin(), piece.end());
    expected.insert(expected.end(), merged.begin(), merged.end());
    symbols.push_back(wall);
    expected.push_back(wall);
  }
  merge_symbols(symbols, table);
  EXPECT_EQ(symbols, expected);
}

TEST(BpeMerge, TableRefusesASecondMergeOfAPair) {
  MergeTable table(2);
  EXPECT_TRUE(table.insert(1, {1, 2, 3}));
  EXPECT_FALSE(table.insert(0, {1, 2, 4}));
  EXPECT_EQ(table.rank_of(1, 2), 1U);
  EXPECT_EQ(table.at(1).result, 3);
  EXPECT_EQ(table.rank_of(2, 1), MergeTable::kNone);
  EXPECT_EQ(MergeTable().rank_of(0, 0), MergeTable::kNone);
}

std::vector<std::string> words(SplitPattern pattern, std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0, end; at < text.size(); at = end) {
    end = word_end(pattern, text, at);
    out.emplace_back(text.substr(at, end - at));
  }
  return out;
}
using Words = std::vector<std::string>;

TEST(SplitPattern, Contractions) {
  EXPECT_EQ(words(SplitPattern::kLlama3, "we'Ll he'ſ 'street"), (Words{"we", "'Ll", " he", "'ſ", " '", "street"}));
  EXPECT_EQ(words(SplitPattern::kGpt2, "we'Ll we'll'd"), (Words{"we", "'", "Ll", " we", "'ll", "'d"}));
  EXPECT_EQ(words(SplitPattern::kLlama3, "'"), Words{"'"});
  EXPECT_EQ(words(SplitPattern::kLlama3, "'l'r'"), (Words{"'l", "'r", "'"}));
}

TEST(SplitPattern, Numbers) {
  EXPECT_EQ(words(SplitPattern::kLlama3, "12345 6"), (Words{"123", "45", " ", "6"}));
  EXPECT_EQ(words(SplitPattern::kQwen2, "123"), (Words{"1", "2", "3"}));
  EXPECT_EQ(words(SplitPattern::kGpt2, "12345 6"), (Words{"12345", " 6"}));
}

TEST(SplitPattern, Space) {
  EXPECT_EQ(words(SplitPattern::kLlama3, "a  b \n\n  c  "), (Words{"a", " ", " b", " \n\n", " ", " c", "  "}));
  EXPECT_EQ(words(SplitPattern::kGpt2, "a  b \n\n  c  "), (Words{"a", " ", " b", " \n\n ", " c", "  "}));
  EXPECT_EQ(words(SplitPattern::kLlama3, "\t!\u3000x \u180e"), (Words{"\t", "!", "\u3000x", " \u180e"}));
  EXPECT_EQ(words(SplitPattern::kLlama3, "?!\r\n\n x"), (Words{"?!\r\n\n", " x"}));
}

TEST(SplitPattern, IsKnownByItsExactText) {
  EXPECT_FALSE(find_split_pattern(""));
  EXPECT_FALSE(find_split_pattern(R"(\s+)"));
}

TEST(CharClasses, FollowTheReference) {
  EXPECT_EQ(char_classes('a'), kLetter | kWord);
  EXPECT_EQ(char_classes('_'), kWord);
  EXPECT_EQ(char_classes('7'), kNumber | kWord);
  EXPECT_EQ(char_classes(0x2163), kNumber | kWord);  // Roman numeral four: a number that is alphabetic
  EXPECT_EQ(char_classes(0x00BD), kNumber);
  EXPECT_EQ(char_classes(0x10FFFF), 0);
  EXPECT_EQ(char_classes(0x20000), kLetter | kWord);
  const std::u32string spaces = U"\t\n\v\f\r \u0085\u00A0\u1680\u2000\u200A\u2028\u2029\u202F\u205F\u3000";
  for (const char32_t c : spaces) EXPECT_EQ(char_classes(c), kSpace) << static_cast<uint32_t>(c);
  size_t count = 0;
  for (char32_t c = 0; c < 0x110000; ++c) count += (char_classes(c) & kSpace) != 0;
  EXPECT_EQ(count, 25U);
}

TEST(ByteLevel, IsABijectionOfBytesAndPrintableCharacters) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  EXPECT_EQ(chars_to_bytes(bytes_to_chars(bytes)), bytes);
  EXPECT_EQ(bytes_to_chars(" \n\x7F\xC3\xA9"), "ĠĊġÃ©");
  EXPECT_EQ(chars_to_bytes("a b"), "a b");  // a space is not in the alphabet: as it is
}

TEST(Utf8, BrokenSequencesBecomeOneReplacementEach) {
  const auto repaired = [](std::string_view bytes) { return to_valid_utf8(bytes); };
  EXPECT_EQ(repaired("a\u00e9\u6c34\U0001F42F"), "a\u00e9\u6c34\U0001F42F");
  EXPECT_EQ(repaired("\xE6\xB0"), "\uFFFD");
  EXPECT_EQ(repaired("\xE6\xB0x"), "\uFFFDx");
  EXPECT_EQ(repaired("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(repaired("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(repaired("\xF0\x9F\x90\xE6"), "\uFFFD\uFFFD");
  EXPECT_EQ(repaired("\xC0\x80"), "\uFFFD\uFFFD");
  for (char32_t c = 0; c < 0x110000; c += 17) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    append_char(text, c);
    size_t at = 0;
    EXPECT_EQ(next_char(text, at), c);
    EXPECT_EQ(at, text.size());
    EXPECT_EQ(char_before(text, text.size()), c);
    EXPECT_EQ(find_invalid_utf8(text), std::string::npos);
  }
}

/// "[12]" for a token, the text itself for what is between.
std::string show(const TokenMatcher& matcher, std::string_view text, Specials specials = Specials::kParse) {
  std::string out;
  for (const auto& span : matcher.split(text, specials)) {
    out += span.id ? "[" + std::to_string(*span.id) + "]" : std::string(text.substr(span.begin, span.end - span.begin));
  }
  return out;
}

TokenMatcher matcher_of(std::vector<AddedToken> tokens) {
  std::vector<TokenMatcher::Pattern> patterns;
  for (auto& token : tokens) patterns.push_back({token.content, token});
  return TokenMatcher(std::move(patterns));
}

TEST(AddedTokens, LongestAtEachPlaceWins) {
  const auto matcher = matcher_of({{1, "ab"}, {2, "abcd"}, {3, "b"}, {4, "cde"}});
  EXPECT_EQ(show(matcher, "abcde"), "[2]e");
  EXPECT_EQ(show(matcher, "abcx"), "[1]cx");
  EXPECT_EQ(show(matcher, "xbcdeab"), "x[3][4][1]");
  EXPECT_EQ(show(matcher, ""), "");
  EXPECT_EQ(show(TokenMatcher(), "ab"), "ab");
}

TEST(AddedTokens, Flags) {
  EXPECT_EQ(show(matcher_of({{.id = 1, .content = "w", .single_word = true}}), "w ww w-w_ éw w"), "[1] ww [1]-w_ éw [1]");
  EXPECT_EQ(show(matcher_of({{.id = 1, .content = "w", .lstrip = true}}), "a \t\u3000w w "), "a[1][1] ");
  EXPECT_EQ(show(matcher_of({{.id = 1, .content = "w", .rstrip = true}}), " w \n w  "), " [1][1]");
  EXPECT_EQ(show(matcher_of({{.id = 1, .content = "w", .special = true}}), "awa", Specials::kLiteral), "awa");
}

// As in the reference, a token that ends behind the start of the next does not hide it.
TEST(AddedTokens, StripMayOverlapTheNextToken) {
  const auto matcher = matcher_of({{.id = 1, .content = "A", .rstrip = true}, {2, "  "}, {.id = 3, .content = "B", .lstrip = true}});
  EXPECT_EQ(show(matcher, "aA    b B"), "a[1][2][2]b[3]");
  EXPECT_EQ(show(matcher, "A     "), "[1][2][2] ");
}

TEST(AddedTokens, EqualPatternsAreRefused) {
  EXPECT_LIGER_ERROR(matcher_of({{1, "ab"}, {2, "ab"}}), ErrorCode::kBadInput, "match the same text");
}

}  // namespace
}  // namespace liger::detail
