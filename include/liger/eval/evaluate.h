#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "liger/eval/scoring.h"
#include "liger/eval/task.h"

namespace liger {

class CausalLM;
class Tokenizer;

struct EvalOptions {
  std::vector<std::string> tasks;
  std::filesystem::path data;   ///< folder of {task}.{split}.jsonl, or the jsonl file of `perplexity`
  std::optional<double> limit;  ///< rows per task; below 1 a share of them, rounded up
  int64_t num_fewshot = 0;
  uint32_t fewshot_seed = 1234;
  bool keep_samples = false;  ///< fill TaskResult::samples
  ScoringOptions scoring;
};

/// A task with its rows read and checked: everything that can be wrong before a model is needed.
struct PreparedTask {
  const Task* task;
  TaskData documents, examples;  ///< `examples` is empty without few-shot examples
  int64_t shots = 0;
  int64_t scored = 0;           ///< rows that will be scored
  std::vector<Prompt> prompts;  ///< multiple choice only
};

/// Throws Error as find_task, read_task_data and build_prompts do.
std::vector<PreparedTask> prepare_tasks(const EvalOptions& options);

struct Metric {
  std::string name;
  double value = 0.0;
  bool higher_is_better = true;
  bool has_standard_error = false;
  std::optional<double> standard_error;  ///< absent for a single row
};

struct TaskResult {
  const Task* task;
  std::filesystem::path file;
  int64_t shots = 0, original = 0, scored = 0;
  std::vector<Metric> metrics;
  std::vector<OrderedJson> samples;  ///< one a row, in lm-evaluation-harness's form
};

/// Scores the task's rows. Multiple choice: acc and acc_norm (by characters). Perplexity: loss in nats a token over all
/// tokens of all rows, each row on its own after BOS (rows longer than the model's positions in rolling windows),
/// exp(loss), and how many tokens that were. Throws Error as score() does, and for rows that have no tokens.
TaskResult evaluate(CausalLM& model, const Tokenizer& tokenizer, const PreparedTask& task, const EvalOptions& options);

/// Positions the model was made for (2048 if its config does not say): longer requests are cut, longer documents
/// rolled.
int64_t max_length(const CausalLM& model);

}  // namespace liger
