#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "liger/eval/task.h"
#include "liger/io/chat_template.h"

namespace liger {

/// The rows of one split of a task.
struct TaskData {
  std::filesystem::path file;
  std::vector<OrderedJson> rows;  ///< as in the file, members in its order, changed by [process_docs]
  std::vector<int64_t> lines;     ///< of each row, from 1
  std::string where(size_t row) const { return file.string() + ":" + std::to_string(lines[row]); }
};

/// The task's own file of that split, or DIR/{task}.{split}.jsonl (or .json, either also .gz or .zst); for a task whose
/// requests are whole documents `data` may be the file. Throws Error(kBadInput) if the file is missing (saying its
/// name) or empty, on a row that is no object, and on a file that is not the one DIR/MANIFEST.json knows.
TaskData read_task_data(const Task& task, const std::string& split, const std::filesystem::path& data);

/// A row as requests.
struct Document {
  int64_t row = 0;
  std::vector<std::string> contexts;       ///< one for all continuations, or one each; none for a whole document
  std::vector<std::string> continuations;  ///< what is scored, delimiter included
  std::vector<std::string> choices;        ///< whose lengths acc_norm divides by
  std::vector<int64_t> gold;               ///< indices of the right ones
  std::string target;                      ///< as lm-evaluation-harness hashes it
  std::string counted;                     ///< the text whose words and bytes perplexities are by
  const std::string& context(size_t request) const { return contexts[contexts.size() == 1 ? 0 : request]; }
};

/// How few-shot examples and instructions come in front of a row.
struct PromptOptions {
  int64_t shots = 0;
  uint32_t seed = 1234;
  std::string system_instruction = {};
  /// What makes a conversation the text of a context; null: contexts are plain text.
  std::function<std::string(std::span<const Message>)> chat = {};
  bool multiturn = false;  ///< of a chat: examples are turns of their own, not all in one message
};

/// The documents of the first `limit` rows. With shots each gets that many answered ones in front, the first of
/// `examples` or drawn as CPython's Random(seed) draws them, document after document.
/// Throws Error(kBadInput) "FILE:LINE: ..." on a row that does not fit the task, Error(kUsage) if there are too few
/// examples to draw from.
std::vector<Document> build_documents(const Task& task, const TaskData& data, const TaskData& examples, int64_t limit,
                                      const PromptOptions& options = {});

}  // namespace liger
