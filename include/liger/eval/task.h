#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/json.h"

namespace liger {

/// One row of a multiple-choice task, in lm-evaluation-harness's form.
struct Question {
  std::string context;               ///< what precedes every choice, few-shot examples not included
  std::vector<std::string> choices;  ///< scored as " " + choice
  int64_t gold = 0;                  ///< index of the right one
};

/// A task: where its rows are and how one becomes a question. The built-in ones follow lm-evaluation-harness 0.4.13.
struct Task {
  enum class Kind {
    kMultipleChoice,
    kPerplexity  ///< rows {"text"}; `question` is null
  };
  const char* name;
  Kind kind;
  const char* split;           ///< scored; rows come from DIR/{name}.{split}.jsonl
  const char* examples_split;  ///< few-shot examples come from DIR/{name}.{examples_split}.jsonl
  /// Draw one example more and drop the document itself: lm-evaluation-harness's rule for tasks without a test split.
  bool drop_document;
  double version;
  const char* columns;  ///< what a row looks like, for messages
  Question (*question)(const OrderedJson& row, const std::string& where);
};

/// Throws Error(kUsage) with the nearest name and the list of all.
const Task& find_task(std::string_view name);
std::vector<std::string> task_names();

/// The rows of one split of a task.
struct TaskData {
  std::filesystem::path file;
  std::vector<OrderedJson> rows;  ///< as in the file, members in its order
  std::vector<int64_t> lines;     ///< of each row, from 1
  std::string where(size_t row) const { return file.string() + ":" + std::to_string(lines[row]); }
};

/// DIR/{task}.{split}.jsonl (or .json, either also .gz or .zst); for a perplexity task `data` may be the file.
/// Throws Error(kBadInput) if the file is missing (saying its name and columns) or empty, or on a row that is no
/// object.
TaskData read_task_data(const Task& task, const char* split, const std::filesystem::path& data);

/// A document with everything before its choices, ready to be scored.
struct Prompt {
  int64_t row = 0;
  std::string context;  ///< few-shot examples and the question
  Question question;
};

/// The prompts of the first `limit` rows. With `shots` > 0 each gets that many answered questions in front, drawn from
/// `examples` as CPython's Random(`seed`) draws them, document after document.
/// Throws Error(kBadInput) "FILE:LINE: ..." on a row that does not fit the task, Error(kUsage) if there are too few
/// examples to draw from.
std::vector<Prompt> build_prompts(const Task& task, const TaskData& documents, const TaskData& examples, int64_t limit,
                                  int64_t shots, uint32_t seed = 1234);

}  // namespace liger
