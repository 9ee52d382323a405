#include "liger/eval/request.h"

#include <gtest/gtest.h>

#include <iterator>
#include <numeric>

#include "liger/error.h"
#include "list_tokenizer.h"

namespace liger {
namespace {

using test::ListTokenizer;
using Ids = std::vector<int64_t>;

TEST(RequestEncoder, CutsWhereTheContextEnds) {
  const ListTokenizer tokenizer = ListTokenizer::letters({" b"});
  const ScoreRequest request = RequestEncoder(tokenizer, 100).encode("a", " b");
  EXPECT_EQ(request.context, (Ids{0, *tokenizer.id_of("a")}));
  EXPECT_EQ(request.continuation, (Ids{*tokenizer.id_of(" b")}));
}

TEST(RequestEncoder, SpaceAtTheEndOfTheContextMovesToTheContinuation) {
  const ListTokenizer tokenizer = ListTokenizer::letters({" b"});
  const ScoreRequest request = RequestEncoder(tokenizer, 100).encode("a ", "b");
  EXPECT_EQ(request.context, (Ids{0, *tokenizer.id_of("a")}));
  EXPECT_EQ(request.continuation, (Ids{*tokenizer.id_of(" b")}));
}

TEST(RequestEncoder, AMergeAcrossTheBorderBelongsToTheContext) {
  // "ab" is one token of the whole: the context keeps its own two ids and the continuation what comes after them.
  const ListTokenizer tokenizer = ListTokenizer::letters({"xab"});
  const RequestEncoder encoder(tokenizer, 100);
  const ScoreRequest request = encoder.encode("xa", "bcd");
  EXPECT_EQ(request.context, (Ids{0, *tokenizer.id_of("x"), *tokenizer.id_of("a")}));
  EXPECT_EQ(request.continuation, (Ids{*tokenizer.id_of("d")}));  // whole = <s> xab c d
  EXPECT_THROW(encoder.encode("xa", "b"), Error);                 // nothing is left to score
}

TEST(RequestEncoder, EmptyContextIsBos) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  const ScoreRequest request = RequestEncoder(tokenizer, 100).encode("", "ab");
  EXPECT_EQ(request.context, (Ids{0}));
  EXPECT_EQ(request.continuation, (Ids{*tokenizer.id_of("a"), *tokenizer.id_of("b")}));
}

TEST(RequestEncoder, EmptyContextTakesBosFromTheContinuation) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  const ScoreRequest request = RequestEncoder(tokenizer, 100).encode("", "<s>a");
  EXPECT_EQ(request.context, (Ids{0}));
  EXPECT_EQ(request.continuation, (Ids{*tokenizer.id_of("a")}));
}

TEST(RequestEncoder, WithoutBosEosBeginsTheText) {
  const ListTokenizer tokenizer = ListTokenizer::letters({}, /*has_bos=*/false);
  const RequestEncoder encoder(tokenizer, 100);
  EXPECT_EQ(encoder.encode("", "a").context, (Ids{1}));
  EXPECT_EQ(encoder.encode("b", "a").context, (Ids{*tokenizer.id_of("b")}));
}

TEST(RequestEncoder, NoSecondBos) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  EXPECT_EQ(RequestEncoder(tokenizer, 100).encode("<s>b", "a").context, (Ids{0, *tokenizer.id_of("b")}));
}

TEST(RequestEncoder, TooLongIsCutOnTheLeft) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  // The model reads all but the last token, so max_length + 1 fit.
  const RequestEncoder encoder(tokenizer, 5);
  EXPECT_EQ(encoder.encode("abc", "de").context.size(), 4u);
  EXPECT_EQ(encoder.encode("abcd", "ef").context,
            (Ids{*tokenizer.id_of("a"), *tokenizer.id_of("b"), *tokenizer.id_of("c"), *tokenizer.id_of("d")}));
  EXPECT_EQ(encoder.encode("abcd", "efghi").context, (Ids{*tokenizer.id_of("d")}));
  EXPECT_THROW(encoder.encode("abcd", "efghij"), Error);
}

TEST(RequestEncoder, DocumentsAreLiteralAfterBos) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  const std::vector<ScoreRequest> requests = RequestEncoder(tokenizer, 100).encode_document("a<s>");
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].context, (Ids{0}));
  EXPECT_EQ(requests[0].continuation, tokenizer.encode("a<s>", Specials::kLiteral));
  EXPECT_EQ(requests[0].continuation.size(), 4u);
  EXPECT_TRUE(RequestEncoder(tokenizer, 100).encode_document("").empty());
}

struct Window {
  Ids context, continuation;
};

void expect_windows(int64_t tokens, int64_t max_length, const std::vector<Window>& expected) {
  Ids ids(tokens);
  std::iota(ids.begin(), ids.end(), 10);
  const std::vector<ScoreRequest> windows = rolling_windows(ids, 0, max_length);
  ASSERT_EQ(windows.size(), expected.size());
  for (size_t i = 0; i < windows.size(); ++i) {
    EXPECT_EQ(windows[i].context, expected[i].context) << "window " << i;
    EXPECT_EQ(windows[i].continuation, expected[i].continuation) << "window " << i;
  }
}

// Expected: lm_eval 0.4.13, make_disjoint_window(get_rolling_token_windows(ids, 0, max_length, 1)).
TEST(RollingWindows, EveryTokenOnce) {
  expect_windows(3, 4, {{{0}, {10, 11, 12}}});
  expect_windows(4, 4, {{{0}, {10, 11, 12, 13}}});
  expect_windows(5, 4, {{{0}, {10, 11, 12, 13}}, {{10, 11, 12, 13}, {14}}});
  expect_windows(8, 4, {{{0}, {10, 11, 12, 13}}, {{13}, {14, 15, 16, 17}}});
  expect_windows(10, 4, {{{0}, {10, 11, 12, 13}}, {{13}, {14, 15, 16, 17}}, {{15, 16, 17}, {18, 19}}});
  expect_windows(0, 4, {});
}

}  // namespace
}  // namespace liger
