#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "liger/error.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/train/dataset.h"
#include "list_tokenizer.h"
#include "train_test_util.h"

namespace liger {
namespace {

using test::ListTokenizer;
using test::TemporaryFolder;

DataOptions format_options(DataFormat format) {
  DataOptions options;
  options.format = format;
  return options;
}

std::shared_ptr<const Corpus> make_corpus(const TemporaryFolder& folder, const std::string& rows, DataFormat format,
                                          int64_t vocab_size = 1000) {
  write_text_atomic(folder / "rows.jsonl", rows);
  return test::make_corpus(folder / "rows.jsonl", format_options(format), ListTokenizer::letters(), vocab_size);
}

constexpr int64_t kSpace = 2;  // id of ' ', and the letters after it
int64_t id_of(char c) { return c - ' ' + kSpace; }

// Tokens as text, BOS as '^', EOS as '$'; what is learned in capitals.
std::string shown(const Corpus& corpus, int64_t begin, int64_t end) {
  const ListTokenizer tokenizer = ListTokenizer::letters();
  std::string text;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t id = corpus.token(i);
    const char c = id == 0 ? '^' : id == 1 ? '$' : tokenizer.token(id)[0];
    text += corpus.learned(i) ? static_cast<char>(std::toupper(c)) : c;
    EXPECT_TRUE(id != 1 || corpus.learned(i));
  }
  return text;
}
std::string shown_row(const Corpus& corpus, int64_t row) { return shown(corpus, corpus.begin(row), corpus.end(row)); }

// A dataset's samples: pieces in brackets.
std::vector<std::string> shown_samples(const Dataset& data) {
  std::vector<std::string> samples;
  for (int64_t s = 0; s < data.size(); ++s) {
    std::string& text = samples.emplace_back();
    for (const Piece& piece : data.pieces(s)) text += "[" + shown(data.corpus(), piece.begin, piece.end) + "]";
  }
  return samples;
}

std::string error_of(const std::function<void()>& body, ErrorCode code = ErrorCode::kBadInput) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code);
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

DataOptions data_options(int64_t max_length, Packing pack, OverLength over_length) {
  DataOptions options;
  options.max_length = max_length;
  options.pack = pack;
  options.over_length = over_length;
  return options;
}

TEST(Corpus, TextLearnsAllButBos) {
  const TemporaryFolder folder;
  const auto corpus = make_corpus(folder, "{\"text\": \"ab\"}\n\n{\"text\": \"</s>\"}\n", DataFormat::kText);
  ASSERT_EQ(corpus->rows(), 2);
  EXPECT_EQ(shown_row(*corpus, 0), "^AB$");
  EXPECT_EQ(shown_row(*corpus, 1), "^</S>$");  // spells a special token, and is text
  EXPECT_EQ(corpus->where(1), (folder / "rows.jsonl").string() + ":3");
}

TEST(Corpus, CompletionLearnsTheCompletionAndEos) {
  const TemporaryFolder folder;
  // The prompt's token for "x" is not masked where the completion has it too: by position, not by id.
  const auto corpus = make_corpus(folder, R"({"prompt": "x=", "completion": "x"})", DataFormat::kCompletion);
  EXPECT_EQ(shown_row(*corpus, 0), "^x=X$");
}

TEST(Corpus, AlpacaHasTwoTemplates) {
  const TemporaryFolder folder;
  const auto corpus = make_corpus(folder,
                                  "{\"instruction\": \"add\", \"input\": \"1 2\", \"output\": \"3\"}\n"
                                  "{\"instruction\": \"greet\", \"input\": \"\", \"output\": \"hi\"}\n"
                                  "{\"instruction\": \"greet\", \"output\": \"hi\"}\n",
                                  DataFormat::kAlpaca);
  EXPECT_EQ(
      shown_row(*corpus, 0),
      "^Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response that appropriately completes the request.\n\n### Instruction:\nadd\n\n### Input:\n1 2\n\n"
      "### Response:\n3$");
  EXPECT_EQ(shown_row(*corpus, 1),
            "^Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\ngreet\n\n### Response:\nHI$");
  EXPECT_EQ(shown_row(*corpus, 2), shown_row(*corpus, 1));
}

TEST(Corpus, BadRowsAreNamed) {
  const TemporaryFolder folder;
  const std::string file = (folder / "rows.jsonl").string();
  const auto error = [&](const std::string& rows, DataFormat format, int64_t vocab_size = 1000) {
    return error_of([&] { make_corpus(folder, rows, format, vocab_size); });
  };
  EXPECT_NE(error("", DataFormat::kText).find(file), std::string::npos);
  EXPECT_NE(error("\n\n", DataFormat::kText).find("no row"), std::string::npos);
  EXPECT_NE(error("{\"text\": \"a\"}\n{\"txt\": \"b\"}\n", DataFormat::kText).find(file + ":2"), std::string::npos);
  EXPECT_NE(error("{\"text\": 5}\n", DataFormat::kText).find(file + ":1"), std::string::npos);
  EXPECT_NE(error("{\"instruction\": \"a\", \"input\": 3, \"output\": \"b\"}", DataFormat::kAlpaca).find("input"),
            std::string::npos);
  EXPECT_NE(error("{\"text\": \"z\"}", DataFormat::kText, 90).find("vocab_size 90"), std::string::npos);
}

TEST(Corpus, NeedsAnEndOfText) {
  const TemporaryFolder folder;
  write_text_atomic(folder / "rows.jsonl", "{\"text\": \"a\"}");
  struct Endless : ListTokenizer {
    Endless() : ListTokenizer({"a"}) {}
    std::optional<int64_t> eos() const override { return {}; }
  };
  error_of([&] { test::make_corpus(folder / "rows.jsonl", format_options(DataFormat::kText), Endless(), 10); });
}

TEST(Dataset, ConcatFillsChunksAndKeepsRowsApart) {
  const TemporaryFolder folder;
  const auto corpus =
      make_corpus(folder, "{\"text\":\"abc\"}\n{\"text\":\"de\"}\n{\"text\":\"fghij\"}\n", DataFormat::kText);
  const Dataset data(corpus, 0, 3, data_options(7, Packing::kConcat, OverLength::kSplit));
  // ^abc$ ^d | e$ ^fghi | j$: a cut row goes on as another; the piece "e$" predicts "$" from "e".
  EXPECT_EQ(shown_samples(data), (std::vector<std::string>{"[^ABC$][^D]", "[E$][^FGHI]", "[J$]"}));
  EXPECT_EQ(data.counts().tokens, 16);
  EXPECT_EQ(data.counts().targets, 4 + 1 + 1 + 4 + 1);
  EXPECT_EQ(data.counts().split, 0);
}

TEST(Dataset, WhatTeachesNothingIsLeftOut) {
  const TemporaryFolder folder;
  const auto corpus = make_corpus(folder,
                                  "{\"prompt\": \"abcdefgh\", \"completion\": \"x\"}\n"
                                  "{\"prompt\": \"\", \"completion\": \"yz\"}\n",
                                  DataFormat::kCompletion);
  const Dataset data(corpus, 0, 2, data_options(4, Packing::kConcat, OverLength::kSplit));
  // ^abc | defg | hx$ ^ | yz$
  EXPECT_EQ(shown_samples(data), (std::vector<std::string>{"[hX$]", "[YZ$]"}));
  EXPECT_EQ(data.counts().samples_without_target, 2);
}

TEST(Dataset, LongRowsFollowThePolicy) {
  const TemporaryFolder folder;
  const auto corpus = make_corpus(folder, "{\"text\":\"ab\"}\n{\"text\":\"cdefghi\"}\n", DataFormat::kText);
  const auto samples = [&](OverLength policy, DatasetCounts& counts) {
    const Dataset data(corpus, 0, 2, data_options(5, Packing::kNone, policy));
    counts = data.counts();
    return shown_samples(data);
  };
  DatasetCounts counts;
  EXPECT_EQ(samples(OverLength::kTruncate, counts), (std::vector<std::string>{"[^AB$]", "[^CDEF]"}));
  EXPECT_EQ(counts.truncated, 1);
  EXPECT_EQ(samples(OverLength::kDrop, counts), (std::vector<std::string>{"[^AB$]"}));
  EXPECT_EQ(counts.dropped, 1);
  EXPECT_EQ(samples(OverLength::kSplit, counts), (std::vector<std::string>{"[^AB$]", "[^CDEF]", "[GHI$]"}));
  EXPECT_EQ(counts.split, 1);
  const std::string error = error_of([&] { samples(OverLength::kError, counts); });
  EXPECT_NE(error.find("rows.jsonl:2"), std::string::npos);
  EXPECT_NE(error.find("over_length"), std::string::npos);
}

TEST(Dataset, NothingToLearnAtAllIsAnError) {
  const TemporaryFolder folder;
  const auto corpus = make_corpus(folder, R"({"prompt": "abcdefgh", "completion": "x"})", DataFormat::kCompletion);
  const std::string error =
      error_of([&] { Dataset(corpus, 0, 1, data_options(4, Packing::kNone, OverLength::kTruncate)); });
  EXPECT_NE(error.find("1 truncated"), std::string::npos);
}

TEST(Dataset, BatchShiftsTargetsWithinEachPiece) {
  const TemporaryFolder folder;
  const auto corpus =
      make_corpus(folder, "{\"prompt\": \"p\", \"completion\": \"ab\"}\n{\"prompt\": \"\", \"completion\": \"c\"}\n",
                  DataFormat::kCompletion);
  const Dataset data(corpus, 0, 2, data_options(8, Packing::kNone, OverLength::kError));
  const std::vector<int64_t> both = {1, 0};
  const MicroBatch batch = data.batch(both, at::kCPU);
  EXPECT_EQ(batch.tokens.lengths(), (std::vector<int64_t>{3, 5}));  // ^c$ ^pab$
  const std::vector<int64_t> expected = {id_of('c'), 1, kIgnoredTarget, kIgnoredTarget, id_of('a'),
                                         id_of('b'), 1, kIgnoredTarget};
  const auto* targets = batch.targets.const_data_ptr<int64_t>();
  EXPECT_EQ(std::vector<int64_t>(targets, targets + batch.targets.size(0)), expected);
  EXPECT_EQ(batch.target_count, 5);
  EXPECT_EQ(data.targets(0), 3);
}

TEST(EpochOrder, IsAPermutationThatSeedAndEpochChange) {
  const auto order = epoch_order(1000, 3, 0);
  EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 1000u);
  EXPECT_EQ(*std::min_element(order.begin(), order.end()), 0);
  EXPECT_EQ(*std::max_element(order.begin(), order.end()), 999);
  EXPECT_EQ(order, epoch_order(1000, 3, 0));
  EXPECT_NE(order, epoch_order(1000, 3, 1));
  EXPECT_NE(order, epoch_order(1000, 4, 0));
  EXPECT_NE(epoch_order(1000, 3, 1), epoch_order(1000, 4, 0));
  // The same on every machine and with every standard library.
  EXPECT_EQ(epoch_order(5, 0, 0), (std::vector<int64_t>{1, 4, 3, 2, 0}));
}

}  // namespace
}  // namespace liger
