#include "liger/eval/task.h"

#include <algorithm>
#include <iterator>

#include "eval/python_random.h"
#include "eval/python_text.h"
#include "eval/row.h"
#include "io/nearest.h"
#include "liger/error.h"
#include "liger/io/jsonl.h"

namespace liger {
namespace {

using eval::field;
using eval::index_field;
using eval::text_field;
using eval::text_list;

Question piqa(const OrderedJson& row, const std::string& where) {
  return {"Question: " + text_field(row, "goal", where) + "\nAnswer:",
          {text_field(row, "sol1", where), text_field(row, "sol2", where)},
          index_field(row, "label", 2, where)};
}

// Rows of the form {"choices": {"text": [...], "label": [...]}, "answerKey"}, where the key is one of the labels.
Question labelled(std::string context, const OrderedJson& row, std::string_view answer, const std::string& where) {
  const OrderedJson& choices = field(row, "choices", where);
  LIGER_CHECK(choices.is_object(), where, ": column 'choices': expected {\"text\": [...], \"label\": [...]}, got ",
              choices.type_name());
  const std::string place = where + ": column 'choices'";
  Question question{std::move(context), text_list(choices, "text", place), 0};
  const std::vector<std::string> labels = text_list(choices, "label", place);
  LIGER_CHECK(labels.size() == question.choices.size(), place, ": ", question.choices.size(), " texts but ",
              labels.size(), " labels");
  const auto gold = std::find(labels.begin(), labels.end(), answer);
  LIGER_CHECK(gold != labels.end(), where, ": column 'answerKey': '", answer, "' is none of the labels");
  question.gold = gold - labels.begin();
  return question;
}

Question arc(const OrderedJson& row, const std::string& where) {
  return labelled("Question: " + text_field(row, "question", where) + "\nAnswer:", row,
                  text_field(row, "answerKey", where), where);
}

Question openbookqa(const OrderedJson& row, const std::string& where) {
  const std::string answer = text_field(row, "answerKey", where);
  return labelled(text_field(row, "question_stem", where), row, eval::left_stripped(answer), where);
}

Question multiple_choice(const OrderedJson& row, const std::string& where) {
  std::vector<std::string> choices = text_list(row, "choices", where);
  const int64_t gold = index_field(row, "gold", choices.size(), where);
  return {text_field(row, "query", where), std::move(choices), gold};
}

constexpr const char* kArcColumns =
    R"({"question", "choices": {"text": [...], "label": [...]}, "answerKey": one of the labels})";

constexpr Task kTasks[] = {
    {"piqa", Task::Kind::kMultipleChoice, "validation", "train", true, 1.0,
     R"({"goal", "sol1", "sol2", "label": 0 or 1})", piqa},
    {"arc_easy", Task::Kind::kMultipleChoice, "test", "train", false, 1.0, kArcColumns, arc},
    {"arc_challenge", Task::Kind::kMultipleChoice, "test", "train", false, 1.0, kArcColumns, arc},
    {"openbookqa", Task::Kind::kMultipleChoice, "test", "train", false, 1.0,
     R"({"question_stem", "choices": {"text": [...], "label": [...]}, "answerKey": one of the labels})", openbookqa},
    {"multiple_choice", Task::Kind::kMultipleChoice, "test", "train", false, 1.0,
     R"({"query", "choices": [...], "gold": index of the right one})", multiple_choice},
    {"perplexity", Task::Kind::kPerplexity, "test", nullptr, false, 1.0, R"({"text"})", nullptr},
};

Question question_of(const Task& task, const TaskData& data, size_t row) {
  try {
    return task.question(data.rows[row], data.where(row));
  } catch (const Error& e) {
    throw Error(cat(e.what(), "; a row of ", task.name, " is ", task.columns), e.code());
  }
}

// Draws the examples of one task, document after document, from one stream.
class ExampleSampler {
 public:
  ExampleSampler(const Task& task, const TaskData& pool, int64_t shots, uint32_t seed)
      : task_(task), pool_(pool), shots_(shots), random_(seed) {
    const int64_t needed = shots + (task.drop_document ? 1 : 0);
    LIGER_CHECK_USAGE(size() >= needed, pool.file.string(), ": ", shots, " few-shot examples need at least ", needed,
                      " rows to draw from, got ", size());
  }

  std::vector<size_t> draw(const OrderedJson& document) {
    std::vector<size_t> rows;
    for (const int64_t row : random_.sample(size(), shots_ + (task_.drop_document ? 1 : 0))) {
      if (!task_.drop_document || pool_.rows[row] != document) rows.push_back(row);
    }
    if (std::ssize(rows) < shots_) rows = draw_from_others(document);
    rows.resize(shots_);
    return rows;
  }

 private:
  int64_t size() const { return std::ssize(pool_.rows); }

  // The document occurs several times in the pool, and more than one of them was drawn.
  std::vector<size_t> draw_from_others(const OrderedJson& document) {
    std::vector<size_t> others, rows;
    for (size_t i = 0; i < pool_.rows.size(); ++i) {
      if (pool_.rows[i] != document) others.push_back(i);
    }
    LIGER_CHECK_USAGE(std::ssize(others) >= shots_, pool_.file.string(), ": only ", others.size(),
                      " rows differ from the document, too few for ", shots_, " few-shot examples");
    for (const int64_t i : random_.sample(std::ssize(others), shots_)) rows.push_back(others[i]);
    return rows;
  }

  const Task& task_;
  const TaskData& pool_;
  int64_t shots_;
  eval::PythonRandom random_;
};

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const Task& task : kTasks) names.emplace_back(task.name);
  return names;
}

const Task& find_task(std::string_view name) {
  const auto found = std::find_if(std::begin(kTasks), std::end(kTasks), [&](const Task& t) { return t.name == name; });
  if (found != std::end(kTasks)) return *found;
  const std::vector<std::string> names = task_names();
  const std::string nearest = detail::nearest(std::string(name), {names.begin(), names.end()});
  std::string known;
  for (const std::string& task : names) known += (known.empty() ? "" : ", ") + task;
  fail(ErrorCode::kUsage, "unknown task '", name, "'",
       nearest.empty() ? "; known are " + known : "; did you mean '" + nearest + "'? Known are " + known);
}

TaskData read_task_data(const Task& task, const char* split, const std::filesystem::path& data) {
  LIGER_CHECK(std::filesystem::exists(data), data.string(), ": no such file or folder; ", task.name, " reads ",
              task.name, ".", split, ".jsonl, one JSON row a line: ", task.columns);
  TaskData result{data, {}, {}};
  if (std::filesystem::is_directory(data)) {
    result.file = data / cat(task.name, ".", split, ".jsonl");
    for (const char* ending : {".json", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst"}) {
      if (std::filesystem::exists(result.file)) break;
      const std::filesystem::path other = data / cat(task.name, ".", split, ending);
      if (std::filesystem::exists(other)) result.file = other;
    }
  } else {
    LIGER_CHECK_USAGE(task.kind == Task::Kind::kPerplexity, "--data ", data.string(), " is not a folder; ", task.name,
                      " needs one with ", task.name, ".", split, ".jsonl, one JSON row a line: ", task.columns);
  }
  LIGER_CHECK(std::filesystem::exists(result.file), result.file.string(), ": no such file; ", task.name,
              " reads one JSON row a line: ", task.columns);
  JsonlReader reader(result.file);
  while (auto row = reader.next_ordered()) {
    result.rows.push_back(std::move(*row));
    result.lines.push_back(reader.line());
  }
  LIGER_CHECK(!result.rows.empty(), result.file.string(), ": no rows; ", task.name,
              " reads one JSON row a line: ", task.columns);
  return result;
}

std::vector<Prompt> build_prompts(const Task& task, const TaskData& documents, const TaskData& examples, int64_t limit,
                                  int64_t shots, uint32_t seed) {
  std::optional<ExampleSampler> sampler;
  if (shots > 0) sampler.emplace(task, examples, shots, seed);
  std::vector<Prompt> prompts;
  for (int64_t row = 0; row < std::min(limit, std::ssize(documents.rows)); ++row) {
    Prompt prompt{row, "", question_of(task, documents, row)};
    if (sampler) {
      for (const size_t example : sampler->draw(documents.rows[row])) {
        const Question shown = question_of(task, examples, example);
        prompt.context += shown.context + " " + shown.choices[shown.gold] + "\n\n";
      }
    }
    prompt.context += prompt.question.context;
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace liger
