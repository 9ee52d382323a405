#include "liger/eval/document.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>

#include "command.h"
#include "liger/error.h"
#include "liger/io/manifest.h"

namespace liger {
namespace {

using Indices = std::vector<int64_t>;
using Texts = std::vector<std::string>;

class Tasks : public testing::Test {
 protected:
  void write(const std::string& name, const std::vector<std::string>& lines) {
    std::ofstream out(folder_ / name);
    for (const std::string& line : lines) out << line << "\n";
  }
  std::vector<Document> documents(const std::string& name, int64_t shots = 0, int64_t limit = 1000) {
    const std::vector<std::filesystem::path> include{folder_ / "tasks"};
    const bool own = std::filesystem::exists(include[0]);
    const TaskSelection selection = TaskIndex(own ? include : std::vector<std::filesystem::path>{}).select({name});
    const Task& task = *selection.tasks.at(0);
    TaskData examples;
    if (shots > 0) examples = read_task_data(task, task.examples_split, folder_.path());
    const TaskData data = read_task_data(task, task.split, folder_.path());
    return build_documents(task, data, examples, limit, {shots, 1234, ""});
  }
  void define(const std::string& name, const std::string& yaml) {
    std::filesystem::create_directories(folder_ / "tasks");
    write("tasks/" + name, {yaml});
  }
  std::string failure(const std::string& name, int64_t shots = 0) {
    try {
      documents(name, shots);
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
  const std::vector<Document> all = documents("piqa");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].contexts.at(0), "Question: Cut it\nAnswer:");
  EXPECT_EQ(all[0].choices, (std::vector<std::string>{"Saw.", "Sing."}));
  EXPECT_EQ(all[0].gold, Indices{1});
}

TEST_F(Tasks, ArcTakesItsLabelsAsTheyAre) {
  const std::string row =
      R"({"id": "1", "question": "Up?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"})";
  write("arc_easy.test.jsonl", {row, ""});
  write("arc_challenge.test.jsonl", {row});
  for (const char* name : {"arc_easy", "arc_challenge"}) {
    const std::vector<Document> all = documents(name);
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].contexts.at(0), "Question: Up?\nAnswer:");
    EXPECT_EQ(all[0].gold, Indices{2});
  }
}

TEST_F(Tasks, OpenbookqaStripsItsKey) {
  write("openbookqa.test.jsonl",
        {R"({"question_stem": "The sun", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": " B"})"});
  const std::vector<Document> all = documents("openbookqa");
  EXPECT_EQ(all[0].contexts.at(0), "The sun");
  EXPECT_EQ(all[0].gold, Indices{1});
}

TEST_F(Tasks, MultipleChoiceReadsAnArrayToo) {
  write("multiple_choice.test.json", {R"([{"query": "1 + 1 =", "choices": ["1", "2"], "gold": 1},)",
                                      R"({"query": "", "choices": ["x"], "gold": 0}])"});
  const std::vector<Document> all = documents("multiple_choice");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].contexts.at(0), "1 + 1 =");
  EXPECT_EQ(all[1].contexts.at(0), "");
}

TEST_F(Tasks, PackedRowsAreReadWhereThePlainFileIsMissing) {
  const gzFile packed = gzopen(path("multiple_choice.test.jsonl.gz").c_str(), "wb");
  gzputs(packed, R"({"query": "packed", "choices": ["1"], "gold": 0})");
  ASSERT_EQ(gzclose(packed), Z_OK);
  EXPECT_EQ(documents("multiple_choice").at(0).contexts.at(0), "packed");
  write("multiple_choice.test.jsonl", {R"({"query": "plain", "choices": ["1"], "gold": 0})"});
  EXPECT_EQ(documents("multiple_choice").at(0).contexts.at(0), "plain");
}

TEST_F(Tasks, LimitTakesTheFirstRows) {
  write("multiple_choice.test.jsonl",
        {R"({"query": "a", "choices": ["1"], "gold": 0})", R"({"query": "b", "choices": ["1"], "gold": 7})"});
  EXPECT_EQ(documents("multiple_choice", 0, 1).size(), 1u);
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
  std::vector<std::string> pool, scored;
  for (int i = 0; i < 30; ++i) pool.push_back(arc_row(i));
  for (int i = 100; i < 103; ++i) scored.push_back(arc_row(i));
  write("arc_easy.train.jsonl", pool);
  write("arc_easy.test.jsonl", scored);
  const std::vector<Document> all = documents("arc_easy", 2);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].contexts.at(0), shown({24, 14}, 100));
  EXPECT_EQ(all[1].contexts.at(0), shown({3, 0}, 101));
  EXPECT_EQ(all[2].contexts.at(0), shown({2, 29}, 102));
}

// The same with one more drawn, from which the document itself is taken out: the second one is row 2.
TEST_F(Tasks, ExamplesOfATaskWithoutATestSplit) {
  std::vector<std::string> pool;
  for (int i = 0; i < 30; ++i) pool.push_back(piqa_row(i));
  write("piqa.train.jsonl", pool);
  write("piqa.validation.jsonl", {piqa_row(100), piqa_row(2), piqa_row(102)});
  const std::vector<Document> all = documents("piqa", 2);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].contexts.at(0), shown({24, 14}, 100));
  EXPECT_EQ(all[1].contexts.at(0), shown({0, 29}, 2));
  EXPECT_EQ(all[2].contexts.at(0), shown({25, 18}, 102));
}

TEST_F(Tasks, ExamplesWhereTheDocumentIsThereSeveralTimes) {
  write("piqa.train.jsonl",
        {piqa_row(9), piqa_row(9), piqa_row(9), piqa_row(9), piqa_row(1), piqa_row(2), piqa_row(3)});
  write("piqa.validation.jsonl", {piqa_row(9)});
  EXPECT_EQ(documents("piqa", 2)[0].contexts.at(0), shown({1, 3}, 9));
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
  const auto second = [&](const std::string& row) {
    write("multiple_choice.test.jsonl", {good, "", row});
    return failure("multiple_choice");
  };
  const std::string index = ":3: doc_to_target: expected the index of a choice, 0 to 1, got ";
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", "2"], "gold": 2})"), file + index + "2");
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", "2"], "gold": -1})"), file + index + "-1");
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", "2"], "gold": 0.5})"), file + index + "0.5");
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1"], "gold": "0"})"),
            file + ":3: doc_to_target: '0' is none of the choices");
  const std::string list = ":3: doc_to_choice: expected a list of strings, got ";
  EXPECT_EQ(second(R"({"query": "a", "choices": [], "gold": 0})"), file + list + "[]");
  EXPECT_EQ(second(R"({"query": "a", "choices": ["1", 2], "gold": 0})"), file + list + R"(["1",2])");
  EXPECT_EQ(second(R"({"choices": ["1"], "gold": 0})"), file + ":3: doc_to_text: column 'query' is missing");
  EXPECT_EQ(second(R"({"query": 5, "choices": ["1"], "gold": 0})"),
            file + ":3: doc_to_text: expected the index of a choice, 0 to 0, got 5");
  EXPECT_EQ(code_, ErrorCode::kBadInput);
  EXPECT_NE(second("[1]").find(":3: "), std::string::npos);
}

TEST_F(Tasks, AnAnswerThatIsNoLabel) {
  write("arc_easy.test.jsonl", {R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"})"});
  EXPECT_EQ(failure("arc_easy"), path("arc_easy.test.jsonl") + ":1: doc_to_target: 'B' is not in ['A']");
}

TEST_F(Tasks, Hellaswag) {
  write(
      "hellaswag.validation.jsonl",
      {R"({"activity_label": "Tea ", "ctx_a": "[header] A  man", "ctx_b": "THEN he", "endings": [" sits [x].", "a [title]b"], "label": "1"})"});
  const std::vector<Document> all = documents("hellaswag");
  EXPECT_EQ(all[0].contexts, Texts{"Tea : A man Then he"});
  EXPECT_EQ(all[0].choices, (Texts{"sits .", "a. b"}));
  EXPECT_EQ(all[0].gold, Indices{1});
  EXPECT_EQ(all[0].target, "1");
  write("hellaswag.validation.jsonl",
        {R"({"activity_label": "", "ctx_a": "", "ctx_b": "", "endings": ["a"], "label": ""})"});
  EXPECT_EQ(failure("hellaswag"),
            path("hellaswag.validation.jsonl") + ":1: column 'label': expected the index of an ending, got \"\"");
}

TEST_F(Tasks, WinograndeHasAContextForEachOption) {
  const std::string row =
      R"({"sentence": "Ada fed Bo, for _ was hungry. ", "option1": "Ada", "option2": "Bo", "answer": "2"})";
  write("winogrande.validation.jsonl", {row});
  write("winogrande.train.jsonl", {row, R"({"sentence": "_ slept.", "option1": "X", "option2": "Y", "answer": "1"})"});
  const std::vector<Document> all = documents("winogrande", 1);
  EXPECT_EQ(all[0].contexts, (Texts{"X slept.\n\nAda fed Bo, for Ada", "X slept.\n\nAda fed Bo, for Bo"}));
  EXPECT_EQ(all[0].continuations, (Texts{" was hungry.", " was hungry."}));
  EXPECT_EQ(all[0].gold, Indices{1});
  write("winogrande.validation.jsonl", {R"({"sentence": "no gap", "option1": "A", "option2": "B", "answer": "2"})"});
  EXPECT_NE(failure("winogrande").find(":1: doc_to_choice: column 'sentence': expected a gap"), std::string::npos)
      << failure("winogrande");
}

TEST_F(Tasks, MmluShowsTheFirstExamples) {
  const auto row = [](const std::string& q) {
    return R"({"question": " )" + q + R"( ", "choices": ["w", "x", "y", "z"], "answer": 2})";
  };
  write("mmlu_virology.test.jsonl", {row("Q")});
  write("mmlu_virology.dev.jsonl", {row("E1"), row("E2"), row("E3")});
  const std::vector<Document> all = documents("mmlu_virology", 2);
  const auto shown = [](const std::string& q) { return q + "\nA. w\nB. x\nC. y\nD. z\nAnswer:"; };
  EXPECT_EQ(all[0].contexts.at(0), "The following are multiple choice questions (with answers) about virology.\n\n" +
                                       shown("E1") + " C\n\n" + shown("E2") + " C\n\n" + shown("Q"));
  EXPECT_EQ(all[0].continuations, (Texts{" A", " B", " C", " D"}));
}

TEST_F(Tasks, LambadaAsksForTheLastWord) {
  write("lambada_openai.test.jsonl", {R"({"text": "one  two three"})"});
  const std::vector<Document> all = documents("lambada_openai");
  EXPECT_EQ(all[0].contexts, Texts{"one  two"});
  EXPECT_EQ(all[0].continuations, Texts{" three"});
}

TEST_F(Tasks, WikitextIsMadePlain) {
  write("wikitext.test.jsonl",
        {R"({"page": " = A = \n \n It 's 1 @,@ 000 ( or \" so \" ) , he said : dogs ' N ° C ; N a \n"})"});
  const std::vector<Document> all = documents("wikitext");
  EXPECT_EQ(all[0].continuations, Texts{" = A =\n\nIt's 1,000 (or \"so\"), he said: dogs' N°C; 1 a\n"});
  EXPECT_TRUE(all[0].contexts.empty());
  EXPECT_EQ(all[0].counted.size(), 74u);
}

TEST_F(Tasks, OfOnesOwnInYaml) {
  define("colours.yaml", R"(
task: colours
output_type: multiple_choice
test_split: test
fewshot_config: {sampler: first_n, samples: [{q: sky, a: blue}]}
description: "Name the colour of {{ q }}.\n"
doc_to_text: "{{ q|capitalize }}:"
doc_to_choice: [red, blue]
doc_to_target: a
fewshot_delimiter: "; "
)");
  write("colours.test.jsonl", {R"({"q": "blood", "a": "red"})"});
  const TaskSelection chosen = TaskIndex(std::vector<std::filesystem::path>{folder_ / "tasks"}).select({"colours"});
  EXPECT_EQ(chosen.tasks[0]->metrics.size(), 2u);
  const std::vector<Document> all = documents("colours");
  EXPECT_EQ(all[0].contexts, Texts{"Name the colour of blood.\nBlood:"});
  EXPECT_EQ(all[0].continuations, (Texts{" red", " blue"}));
  EXPECT_EQ(all[0].gold, Indices{0});
}

TEST_F(Tasks, DefinitionsThatAreWrong) {
  const auto wrong = [&](const std::string& yaml) {
    define("t.yaml", yaml);
    return failure("t");
  };
  const std::string file = path("tasks/t.yaml") + ": ";
  const std::string task = "task: t\ntest_split: test\noutput_type: multiple_choice\n";
  const std::string fields = "doc_to_text: q\ndoc_to_choice: c\ndoc_to_target: a\n";
  EXPECT_EQ(wrong(task + fields + "doc_to_txt: x"), file + "'doc_to_txt': an unknown key; did you mean 'doc_to_text'?");
  EXPECT_EQ(wrong(task + "doc_to_target: a\ndoc_to_text: q"),
            file + "'doc_to_choice': is missing; multiple_choice needs it");
  EXPECT_EQ(wrong("task: t\ntest_split: test\n" + fields),
            file +
                "'output_type': generate_until is not supported; multiple_choice, loglikelihood and "
                "loglikelihood_rolling are");
  EXPECT_EQ(wrong("task: t\noutput_type: multiple_choice\n" + fields),
            file + "'test_split': is missing, and so is 'validation_split': nothing is scored");
  EXPECT_EQ(wrong(task + fields + "metric_list: [{metric: f1}]"),
            file + "'metric_list': 'metric': 'f1' is not supported here; acc, acc_norm, acc_bytes, exact_match are");
  EXPECT_NE(wrong(task + fields + "process_docs: !function utils.process_docs").find("functions in Python are not run"),
            std::string::npos);
  EXPECT_NE(
      wrong(task + "doc_to_choice: c\ndoc_to_target: a\ndoc_to_text: '{{ q'").find("'doc_to_text': '{{ q': column 5"),
      std::string::npos);
  EXPECT_NE(wrong("task: t\ninclude: none.yaml").find("none.yaml: no such file, though it is included"),
            std::string::npos);
  EXPECT_NE(wrong("task: t\ninclude: t.yaml").find("includes more than 8 deep"), std::string::npos);
  EXPECT_NE(wrong("task: t\n  bad: [").find("t.yaml:"), std::string::npos);
  EXPECT_EQ(code_, ErrorCode::kUsage);
}

TEST_F(Tasks, AFileThatIsNotTheOneOfTheManifest) {
  write("piqa.validation.jsonl", {piqa_row(1)});
  write_manifest(folder_.path());
  EXPECT_EQ(documents("piqa").size(), 1u);
  write("piqa.validation.jsonl", {piqa_row(2)});
  EXPECT_EQ(failure("piqa"), path("piqa.validation.jsonl") + ": its sha256 differs from the one in MANIFEST.json");
  EXPECT_EQ(code_, ErrorCode::kBadInput);
}

TEST_F(Tasks, AnEmptyFile) {
  write("piqa.validation.jsonl", {"", ""});
  EXPECT_NE(failure("piqa").find("piqa.validation.jsonl: no rows"), std::string::npos);
}

std::vector<std::string> names_of(const TaskSelection& selection) {
  std::vector<std::string> names;
  for (const auto& task : selection.tasks) names.push_back(task->name);
  return names;
}

TEST(TaskIndex, GroupsTagsAndPatterns) {
  const TaskIndex index;
  const TaskSelection mmlu = index.select({"mmlu"});
  EXPECT_EQ(mmlu.tasks.size(), 57u);
  ASSERT_EQ(mmlu.groups.size(), 5u);
  EXPECT_EQ(mmlu.groups.back().name, "mmlu");  // inner ones come first
  EXPECT_EQ(names_of(index.select({"ai2_arc", "arc_easy"})), (Texts{"arc_challenge", "arc_easy"}));
  EXPECT_EQ(names_of(index.select({"arc_?asy", "pi*"})), (Texts{"arc_easy", "piqa"}));
  EXPECT_EQ(index.select({"mmlu_stem"}).tasks.size(), 19u);
  const TaskSelection suite = index.select({"liger"});
  EXPECT_EQ(suite.tasks.size(), 62u);
  EXPECT_FALSE(suite.tasks[0]->num_fewshot.has_value());
  EXPECT_EQ(suite.tasks.back()->num_fewshot, 5);
  EXPECT_EQ(index.select({"recursive"}).tasks[1]->metrics.back().name, "acc_bytes");
}

TEST(TaskIndex, WhatCannotBeChosen) {
  const auto problem = [](const std::vector<std::string>& names) {
    try {
      TaskIndex().select(names);
      return std::string("no error");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return std::string(e.what());
    }
  };
  EXPECT_EQ(problem({"arc_esy"}), "unknown task 'arc_esy'; did you mean 'arc_easy'? --tasks list shows all");
  EXPECT_EQ(problem({"none_*"}), "no task matches 'none_*'; --tasks list shows all");
  EXPECT_NE(problem({"liger", "mmlu"}).find("is asked for twice, with other settings"), std::string::npos);
  EXPECT_EQ(problem({"none.yaml"}), "task 'none.yaml': no such file");
}

}  // namespace
}  // namespace liger
