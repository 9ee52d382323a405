#include <gtest/gtest.h>

#include <chrono>

#include "io/regex.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

struct Case {
  const char* pattern;
  std::vector<const char*> matching, others;
};

// What Python's re.fullmatch says of the same patterns and texts.
const std::vector<Case> kCases = {
    {"q_proj", {"q_proj"}, {"", "xq_proj", "q_proj2", "Q_proj"}},
    {"", {""}, {"a"}},
    {"a|b|", {"a", "b", ""}, {"ab", "c"}},
    {R"(.*\.(q|v)_proj)", {"a.q_proj", "model.layers.0.self_attn.v_proj"}, {"q_proj", "a.k_proj", "aq_proj"}},
    {R"(model\.layers\.[0-3]\.mlp\..+)",
     {"model.layers.3.mlp.up_proj"},
     {"model.layers.4.mlp.up_proj", "model.layers.3.mlp."}},
    {R"(layers\.(\d+)\.x)", {"layers.0.x", "layers.117.x"}, {"layers..x", "layers.a.x", "layersx0.x"}},
    {"a{2}", {"aa"}, {"a", "aaa"}},
    {"a{2,}b", {"aab", "aaaaab"}, {"ab"}},
    {"a{,2}", {"", "a", "aa"}, {"aaa"}},
    {"(ab){1,2}?", {"ab", "abab"}, {"", "ababab"}},
    {"x{", {"x{"}, {"x"}},
    {"x{,}", {"", "xx"}, {"x{,}"}},
    {"x{}", {"x{}"}, {"x"}},
    {"[]a]+", {"]a]"}, {"b", ""}},
    {"[^]a]", {"b"}, {"]", "a", "bb"}},
    {"[a-c_-]+", {"a-c_b"}, {"d"}},
    {R"([\w.]+\-[^\W\d]+)", {"a.1-b"}, {"a-1", "a b-c"}},
    {R"(\s\S\D)", {"\tax", " 1x"}, {"  x", " 11"}},
    {"^a$", {"a"}, {"aa"}},
    {"a^b", {}, {"ab", "a^b"}},
    {R"(\Aa\Z)", {"a"}, {"b"}},
    {R"(.*\bq\b.*)", {"q", "a.q.b"}, {"aq", "q_proj"}},
    {R"(a\Bb)", {"ab"}, {"a"}},
    {"(?P<layer>a)(?:b)?", {"a", "ab"}, {"b"}},
    {"(a*)*", {"", "aaa"}, {"b"}},
    {"(|a)+", {"", "aa"}, {"b"}},
    {"(a|b(c|d)*)?e", {"e", "ae", "bcdce"}, {"ace", "b"}},
};

TEST(Regex, MatchesWhatPythonMatches) {
  for (const Case& c : kCases) {
    const Regex regex(c.pattern);
    for (const char* text : c.matching) EXPECT_TRUE(regex.matches(text)) << c.pattern << " and '" << text << "'";
    for (const char* text : c.others) EXPECT_FALSE(regex.matches(text)) << c.pattern << " and '" << text << "'";
  }
}

TEST(Regex, RefusesWhatIsWrongAndWhatNeedsMore) {
  const auto error = [](const std::string& pattern) -> std::string {
    try {
      const Regex regex(pattern);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a(b", "'a(b': at 3: expected ')'"},
      {"a)b", "at 1: ')' closes no group"},
      {"[ab", "expected ']'"},
      {"*a", "nothing to repeat"},
      {"a|*", "nothing to repeat"},
      {"a**", "multiple repeat"},
      {"a{1}{2}", "multiple repeat"},
      {"a*+", "possessive"},
      {"a\\", "nothing after the backslash"},
      {"\\q", "bad escape '\\q'"},
      {"(a)\\1", "references"},
      {"(?=a)", "look-around"},
      {"(?i)a", "flags"},
      {"(?P<a", "expected the name"},
      {"[z-a]", "backwards"},
      {"[\\d-a]", "both sides of '-'"},
      {"a{3,2}", "least number"},
      {"a{1001}", "at most 1000"},
      {"\xc3\xa9", "ASCII"},
      {"(((a{100}){100}){100})", "4096 states"},
      {std::string(2049, 'a'), "at most 2048"},
      {std::string(70, '(') + "a" + std::string(70, ')'), "inside each other"},
  };
  for (const auto& [pattern, text] : cases) {
    EXPECT_NE(error(pattern).find(text), std::string::npos) << pattern << ": " << error(pattern);
  }
}

// Exponential where a matcher goes back and tries again; a million steps here.
TEST(Regex, NoPatternIsCatastrophic) {
  const auto start = std::chrono::steady_clock::now();
  const std::string text(400, 'a');
  for (const char* pattern : {"(a+)+b", "(a|a)*b", "(a*)*b", "(.*a){20}b", "(a|aa|aaa)+$b", "((a?){30}){30}a{30}b"}) {
    EXPECT_FALSE(Regex(pattern).matches(text)) << pattern;
  }
  EXPECT_TRUE(Regex("((((){1000}){1000}){1000}){1000}").matches(""));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace
}  // namespace liger::detail
