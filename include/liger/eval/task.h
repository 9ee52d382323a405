#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/json.h"

namespace liger {

/// How the values of a metric become one number.
enum class Aggregation {
  kMean,
  kPerplexity,          ///< exp(-mean)
  kWeightedPerplexity,  ///< exp(-sum / sum of weights)
  kBitsPerByte          ///< -sum / sum of weights / ln 2
};

struct TaskMetric {
  std::string name;
  Aggregation aggregation = Aggregation::kMean;
  bool higher_is_better = true;
};

namespace eval {
struct TaskFields;  // eval/task_fields.h: doc_to_text, doc_to_target, ...
}

/// A task as lm-evaluation-harness 0.4.13 reads it from a YAML file: which rows there are, how one becomes requests
/// and what is counted.
struct Task {
  enum class Output {
    kMultipleChoice,  ///< the probability of every choice
    kLoglikelihood,   ///< of one continuation
    kRolling,         ///< of a whole document, in lm-evaluation-harness's windows: BOS predicts BOS first
    kTokens           ///< of a whole document, each token once, the first after BOS: this project's own
  };
  std::string name, alias;
  std::string source;  ///< where it is defined, for messages
  Output output = Output::kMultipleChoice;
  std::string split;           ///< scored: the test split, else the validation split
  std::string examples_split;  ///< few-shot examples come from there
  std::map<std::string, std::string>
      files;  ///< [dataset_kwargs.data_files] of a split; others are DIR/{name}.{split}.jsonl
  /// Draw one example more and drop the document itself: lm-evaluation-harness's rule where examples come from the
  /// split that is scored, and also where neither a split for examples nor a test split is named.
  bool drop_document = false;
  bool first_examples = false;         ///< the first ones instead of a draw [fewshot_config.sampler: first_n]
  std::optional<int64_t> num_fewshot;  ///< unless asked otherwise; 0 cannot be changed
  std::string target_delimiter = " ", fewshot_delimiter = "\n\n";
  std::vector<TaskMetric> metrics;
  OrderedJson version;  ///< [metadata.version]
  std::string columns;  ///< what a row looks like, for messages [metadata.columns]; may be empty
  OrderedJson config;   ///< the whole definition, includes resolved
  std::shared_ptr<const eval::TaskFields> fields;
};

/// Tasks that are shown together and have means of their own.
struct TaskGroup {
  /// A metric of all tasks in it, in one number [aggregate_metric_list].
  struct Aggregate {
    std::string metric;
    bool weight_by_size = true;
  };
  /// The plain mean over tasks of a metric each, as papers print it [averages]: this project's own.
  struct Average {
    std::string name;
    std::vector<std::pair<std::string, std::string>> metrics;  ///< task or group, its metric
  };
  std::string name, alias;
  std::vector<std::string> children;  ///< tasks and groups
  std::vector<Aggregate> aggregates;
  std::vector<Average> averages;
  OrderedJson version;
};

/// What was asked for: every task once, and the groups they were asked for by, inner ones first.
struct TaskSelection {
  std::vector<std::shared_ptr<const Task>> tasks;
  std::vector<TaskGroup> groups;
};

/// All tasks there are: the built-in ones (configs/tasks) and those in YAML files of one's own.
class TaskIndex {
 public:
  /// `include_paths`: folders whose *.yaml files, in any depth, are read; a name that is built in is theirs then.
  /// Throws Error(kUsage) "FILE: 'key': expected ..." on a file that is no task.
  explicit TaskIndex(std::span<const std::filesystem::path> include_paths = {});
  ~TaskIndex();

  /// `names`: tasks, groups, tags, patterns ("mmlu_*") or YAML files. Throws Error(kUsage) on a name that nothing has,
  /// with the nearest, and on a task that this program cannot run, with the reason.
  TaskSelection select(const std::vector<std::string>& names) const;
  /// Name and kind ("task", "group", "tag") of everything, sorted by name.
  std::vector<std::pair<std::string, std::string>> names() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace liger
