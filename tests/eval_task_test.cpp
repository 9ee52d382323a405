#include "liger/eval/task.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>

#include "command.h"
#include "liger/error.h"

namespace liger {
namespace {

class Tasks : public testing::Test {
 protected:
  void write(const std::string& name, const std::vector<std::string>& lines) {
    std::ofstream out(folder_ / name);
    for (const std::string& line : lines) out << line << "\n";
  }
  std::vector<Prompt> prompts(const std::string& name, int64_t shots = 0, int64_t limit = 1000) {
    const Task& task = find_task(name);
    TaskData examples;
    if (shots > 0) examples = read_task_data(task, task.examples_split, folder_.path());
    return build_prompts(task, read_task_data(task, task.split, folder_.path()), examples, limit, shots);
  }
  std::string failure(const std::string& name, int64_t shots = 0) {
    try {
      prompts(name, shots);
    } catch (const Error& e) {
      code_ = e.code();
      return e.what();
    }
    return "";
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  test::TemporaryFolder folder_;
  ErrorCode code_ = ErrorCode::kInternal;
};

TEST_F(Tasks, Piqa) {
  write("piqa.validation.jsonl", {R"({"goal": "Cut it", "sol1": "Saw.", "sol2": "Sing.", "label": 1})"});
  const std::vector<Prompt> all = prompts("piqa");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].context, "Question: Cut it\nAnswer:");
  EXPECT_EQ(all[0].question.choices, (std::vector<std::string>{"Saw.", "Sing."}));
  EXPECT_EQ(all[0].question.gold, 1);
}

TEST_F(Tasks, ArcTakesItsLabelsAsTheyAre) {
  const std::string row =
      R"({"id": "1", "question": "Up?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"})";
  write("arc_easy.test.jsonl", {row, ""});
  write("arc_challenge.test.jsonl", {row});
  for (const char* name : {"arc_easy", "arc_challenge"}) {
    const std::vector<Prompt> all = prompts(name);
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].context, "Question: Up?\nAnswer:");
    EXPECT_EQ(all[0].question.gold, 2);
  }
}

TEST_F(Tasks, OpenbookqaStripsItsKey) {
  write("openbookqa.test.jsonl",
        {R"({"question_stem": "The sun", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": " B"})"});
  const std::vector<Prompt> all = prompts("openbookqa");
  EXPECT_EQ(all[0].context, "The sun");
  EXPECT_EQ(all[0].question.gold, 1);
}

TEST_F(Tasks, MultipleChoiceReadsAnArrayToo) {
  write("multiple_choice.test.json", {R"([{"query": "1 + 1 =", "choices": ["1", "2"], "gold": 1},)",
                                      R"({"query": "", "choices": ["x"], "gold": 0}])"});
  const std::vector<Prompt> all = prompts("multiple_choice");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].context, "1 + 1 =");
  EXPECT_EQ(all[1].context, "");
}

TEST_F(Tasks, PackedRowsAreReadWhereThePlainFileIsMissing) {
  const gzFile packed = gzopen(path("multiple_choice.test.jsonl.gz").c_str(), "wb");
  gzputs(packed, R"({"query": "packed", "choices": ["1"], "gold": 0})");
  ASSERT_EQ(gzclose(packed), Z_OK);
  EXPECT_EQ(prompts("multiple_choice").at(0).context, "packed");
  write("multiple_choice.test.jsonl", {R"({"query": "plain", "choices": ["1"], "gold": 0})"});
  EXPECT_EQ(prompts("multiple_choice").at(0).context, "plain");
}

TEST_F(Tasks, LimitTakesTheFirstRows) {
  write("multiple_choice.test.jsonl",
        {R"({"query": "a", "choices": ["1"], "gold": 0})", R"({"query": "b", "choices": ["1"], "gold": 7})"});
  EXPECT_EQ(prompts("multiple_choice", 0, 1).size(), 1u);
}

std::string arc_row(int i) {
  const std::string n = std::to_string(i);
  return R"({"question": "q)" + n + R"(", "choices": {"text": ["a)" + n + R"(", "b"], "label": ["A", "B"]}, )" +
         R"("answerKey": "A"})";
}

std::string piqa_row(int i) {
  const std::string n = std::to_string(i);
  return R"({"goal": "q)" + n + R"(", "sol1": "a)" + n + R"(", "sol2": "b", "label": 0})";
}

std::string shown(const std::vector<int>& rows, int document) {
  std::string text;
  for (const int i : rows) text += "Question: q" + std::to_string(i) + "\nAnswer: a" + std::to_string(i) + "\n\n";
  return text + "Question: q" + std::to_string(document) + "\nAnswer:";
}

// Rows drawn: CPython's Random(1234).sample over 30 rows, 2 of them three times.
TEST_F(Tasks, ExamplesOfATaskWithATestSplit) {
  std::vector<std::string> pool, documents;
  for (int i = 0; i < 30; ++i) pool.push_back(arc_row(i));
  for (int i = 100; i < 103; ++i) documents.push_back(arc_row(i));
  write("arc_easy.train.jsonl", pool);
  write("arc_easy.test.jsonl", documents);
  const std::vector<Prompt> all = prompts("arc_easy", 2);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].context, shown({24, 14}, 100));
  EXPECT_EQ(all[1].context, shown({3, 0}, 101));
  EXPECT_EQ(all[2].context, shown({2, 29}, 102));
}

// The same with one more drawn, from which the document itself is taken out: the second one is row 2.
TEST_F(Tasks, ExamplesOfATaskWithoutATestSplit) {
  std::vector<std::string> pool;
  for (int i = 0; i < 30; ++i) pool.push_back(piqa_row(i));
  write("piqa.train.jsonl", pool);
  write("piqa.validation.jsonl", {piqa_row(100), piqa_row(2), piqa_row(102)});
  const std::vector<Prompt> all = prompts("piqa", 2);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].context, shown({24, 14}, 100));
  EXPECT_EQ(all[1].context, shown({0, 29}, 2));
  EXPECT_EQ(all[2].context, shown({25, 18}, 102));
}

TEST_F(Tasks, ExamplesWhereTheDocumentIsThereSeveralTimes) {
  write("piqa.train.jsonl",
        {piqa_row(9), piqa_row(9), piqa_row(9), piqa_row(9), piqa_row(1), piqa_row(2), piqa_row(3)});
  write("piqa.validation.jsonl", {piqa_row(9)});
  EXPECT_EQ(prompts("piqa", 2)[0].context, shown({1, 3}, 9));
}

TEST_F(Tasks, TooFewExamples) {
  write("piqa.train.jsonl", {piqa_row(1), piqa_row(2)});
  write("piqa.validation.jsonl", {piqa_row(9)});
  EXPECT_EQ(failure("piqa", 2),
            path("piqa.train.jsonl") + ": 2 few-shot examples need at least 3 rows to draw from, got 2");
  EXPECT_EQ(code_, ErrorCode::kUsage);
}

TEST_F(Tasks, AMissingFileSaysWhatItShouldHold) {
  EXPECT_EQ(failure("piqa"),
            path("piqa.validation.jsonl") +
                R"(: no such file; piqa reads one JSON row a line: {"goal", "sol1", "sol2", "label": 0 or 1})");
  EXPECT_EQ(code_, ErrorCode::kBadInput);
}

TEST_F(Tasks, RowsThatDoNotFitAreNamedByTheirLine) {
  const std::string good = R"({"query": "a", "choices": ["1", "2"], "gold": 0})";
  const std::string file = path("multiple_choice.test.jsonl");
  const std::string form =
      R"(; a row of multiple_choice is {"query", "choices": [...], "gold": index of the right one})";
  const auto second = [&](const std::string& row) {
    write("multiple_choice.test.jsonl", {good, "", row});
    return failure("multiple_choice");
  };
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", "2"], "gold": 2})"),
            file + ":3: column 'gold': expected the index of a choice, 0 to 1, got 2" + form);
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", "2"], "gold": -1})"),
            file + ":3: column 'gold': expected the index of a choice, 0 to 1, got -1" + form);
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1"], "gold": "0"})"),
            file + ":3: column 'gold': expected an integer, got string" + form);
  EXPECT_EQ(second(R"({"query": "a", "choices": [], "gold": 0})"), file + ":3: column 'choices': no choices" + form);
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", 2], "gold": 0})"),
            file + ":3: column 'choices': expected a list of strings, got other items in it" + form);
  EXPECT_EQ(second(R"({"choices": ["1"], "gold": 0})"), file + ":3: column 'query' is missing" + form);
  EXPECT_EQ(second(R"({"query": 5, "choices": ["1"], "gold": 0})"),
            file + ":3: column 'query': expected a string, got number" + form);
  EXPECT_EQ(code_, ErrorCode::kBadInput);
  EXPECT_NE(second("[1]").find(":3: "), std::string::npos);
}

TEST_F(Tasks, AnAnswerThatIsNoLabel) {
  write("arc_easy.test.jsonl", {R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"})"});
  EXPECT_NE(failure("arc_easy").find(":1: column 'answerKey': 'B' is none of the labels"), std::string::npos);
}

TEST_F(Tasks, AnEmptyFile) {
  write("piqa.validation.jsonl", {"", ""});
  EXPECT_NE(failure("piqa").find("piqa.validation.jsonl: no rows"), std::string::npos);
}

TEST(FindTask, SuggestsTheNearest) {
  try {
    find_task("arc_esy");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(e.what()).find("unknown task 'arc_esy'; did you mean 'arc_easy'?"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace liger
