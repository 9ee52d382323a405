#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "liger/eval/document.h"
#include "liger/eval/scoring.h"
#include "liger/eval/task.h"

namespace liger {

class CausalLM;
class ResponseLog;
class Tokenizer;

struct EvalOptions {
  std::vector<std::string> tasks;                    ///< as TaskIndex::select has them
  std::vector<std::filesystem::path> include_paths;  ///< folders of tasks of one's own
  std::filesystem::path data;                        ///< folder of {task}.{split}.jsonl, or one file of whole documents
  std::optional<double> limit;                       ///< rows per task; below 1 a share of them, rounded up
  std::optional<int64_t> num_fewshot;  ///< in place of what tasks ask for; a task that asks for 0 keeps it
  uint32_t fewshot_seed = 1234;
  std::string system_instruction;  ///< before everything else of a context
  std::string chat_template;       ///< contexts are conversations in this template, "auto" = the model's; empty = text
  bool fewshot_as_multiturn = false;
  bool keep_samples = false;  ///< fill TaskResult::samples
  ScoringOptions scoring;
};

/// A task with its rows read and checked.
struct PreparedTask {
  std::shared_ptr<const Task> task;
  TaskData data;
  int64_t shots = 0;
  std::vector<Document> documents;
  int64_t requests() const;
};

/// Everything that can be wrong before a model is needed.
struct PreparedTasks {
  std::vector<PreparedTask> tasks;
  std::vector<TaskGroup> groups;
};

/// The tokenizer is needed for a chat template only. Throws Error as TaskIndex, read_task_data, build_documents and
/// ChatFormat do.
PreparedTasks prepare_tasks(const EvalOptions& options, const Tokenizer* tokenizer = nullptr);

struct Metric {
  std::string name;
  double value = 0.0;
  bool higher_is_better = true;
  bool has_standard_error = false;
  std::optional<double> standard_error;  ///< absent for a single row, and where there is none
};

struct TaskResult {
  std::shared_ptr<const Task> task;
  std::filesystem::path file;
  int64_t shots = 0, original = 0, scored = 0;
  std::vector<Metric> metrics;
  std::vector<OrderedJson> samples;  ///< one a row, in lm-evaluation-harness's form
};

/// Means over the tasks of a group: weighted by rows, or as the group says; standard errors pooled as
/// lm-evaluation-harness does.
struct GroupResult {
  TaskGroup group;
  std::vector<Metric> metrics;
  int64_t scored = 0;
  std::optional<int64_t> shots;  ///< if it is the same for all
};

struct Evaluation {
  std::vector<TaskResult> tasks;
  std::vector<GroupResult> groups;
};

/// Scores the rows of every task. Multiple choice: acc, acc_norm (by characters), acc_bytes, exact_match;
/// continuations: perplexity, acc; rolling: word_perplexity, byte_perplexity, bits_per_byte; tokens: loss in nats a
/// token over all tokens of all rows, exp(loss), and how many tokens that were.
/// With a `log`, requests it has answers to are not asked again, and answers go there as they come; a run that goes on
/// from it gives the very numbers that it would have given undisturbed.
/// Throws Error as score() does, and for rows that have no tokens.
Evaluation evaluate(CausalLM& model, const Tokenizer& tokenizer, const PreparedTasks& prepared,
                    const EvalOptions& options, ResponseLog* log = nullptr);

/// What the groups make of the results of their tasks.
std::vector<GroupResult> group_results(const std::vector<TaskGroup>& groups, const std::vector<TaskResult>& tasks);

/// Positions the model was made for (2048 if its config does not say): longer requests are cut, longer documents
/// rolled.
int64_t max_length(const CausalLM& model);

}  // namespace liger
