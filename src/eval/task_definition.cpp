#include "eval/task_definition.h"

#include <array>
#include <set>
#include <utility>

#include "eval/metrics.h"
#include "eval/task_fields.h"
#include "io/nearest.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

using Names = std::set<std::string, std::less<>>;
using Output = Task::Output;

// Members of a definition, and what is wrong with them.
class Definition {
 public:
  Definition(const Json& object, std::string source) : object_(object), source_(std::move(source)) {
    LIGER_CHECK_USAGE(object.is_object(), source_, ": expected 'key: value' lines");
  }

  [[noreturn]] void bad(const std::string& key, const std::string& what) const {
    fail(ErrorCode::kUsage, source_, ": '", key, "': ", what);
  }
  [[noreturn]] void expected(const std::string& key, const std::string& what) const {
    bad(key, cat("expected ", what, ", got ", at(key).dump().substr(0, 80)));
  }
  void check_keys(const Names& known) const {
    for (const auto& member : object_.items()) {
      if (known.contains(member.key())) continue;
      const std::string nearest = detail::nearest(member.key(), known);
      bad(member.key(), nearest.empty() ? "an unknown key" : cat("an unknown key; did you mean '", nearest, "'?"));
    }
  }
  /// null where it is absent.
  const Json& at(const std::string& key) const {
    static const Json none;
    const auto found = object_.find(key);
    return found == object_.end() ? none : *found;
  }
  bool has(const std::string& key) const { return !at(key).is_null(); }
  std::string text(const std::string& key, const std::string& otherwise = "") const {
    if (!has(key)) return otherwise;
    if (!at(key).is_string()) expected(key, "a text");
    return at(key).get<std::string>();
  }
  bool flag(const std::string& key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!at(key).is_boolean()) expected(key, "true or false");
    return at(key).get<bool>();
  }
  /// A thing that Json describes, with the key in front of what is wrong with it.
  template <typename Make>
  auto make(const std::string& key, const Make& make) const {
    try {
      return make(at(key));
    } catch (const Error& e) {
      fail(ErrorCode::kUsage, source_, ": '", key, "': ", e.what());
    }
  }
  Definition inner(const std::string& key) const { return {at(key), cat(source_, ": '", key, "'")}; }
  const std::string& source() const { return source_; }

 private:
  const Json& object_;
  std::string source_;
};

Output read_output(const Definition& definition) {
  constexpr std::array<std::pair<const char*, Output>, 4> kOutputs = {{{"multiple_choice", Output::kMultipleChoice},
                                                                       {"loglikelihood", Output::kLoglikelihood},
                                                                       {"loglikelihood_rolling", Output::kRolling},
                                                                       {"tokens", Output::kTokens}}};
  const std::string name = definition.text("output_type", "generate_until");
  for (const auto& [own, output] : kOutputs)
    if (name == own) return output;
  if (name == "generate_until") {
    definition.bad("output_type",
                   "generate_until is not supported; multiple_choice, loglikelihood and "
                   "loglikelihood_rolling are");
  }
  definition.expected("output_type", "multiple_choice, loglikelihood or loglikelihood_rolling");
}

TaskMetric read_metric(const Definition& definition, Output output) {
  definition.check_keys({"metric", "aggregation", "higher_is_better", "ignore_case", "ignore_punctuation"});
  const std::string name = definition.text("metric");
  const TaskMetric* known = find_metric(output, name);
  if (known == nullptr)
    definition.bad("metric", cat("'", name, "' is not supported here; ", metric_names(output), " are"));
  TaskMetric metric = *known;
  const std::string aggregation = definition.text("aggregation");
  if (!aggregation.empty() && aggregation != aggregation_name(known->aggregation))
    definition.expected("aggregation", cat("that of ", name, ", ", aggregation_name(known->aggregation)));
  metric.higher_is_better = definition.flag("higher_is_better", known->higher_is_better);
  return metric;
}

std::vector<TaskMetric> read_metrics(const Definition& definition, Output output) {
  if (!definition.has("metric_list")) return default_metrics(output);
  const Json& list = definition.at("metric_list");
  if (!list.is_array() || list.empty()) definition.expected("metric_list", "a list of metrics");
  std::vector<TaskMetric> metrics;
  for (const Json& entry : list)
    metrics.push_back(read_metric(Definition(entry, cat(definition.source(), ": 'metric_list'")), output));
  return metrics;
}

std::string function_name(const Definition& definition, const std::string& key) {
  const std::string text = definition.text(key), tag = "!function ";
  if (!text.starts_with(tag)) definition.expected(key, "!function NAME");
  return text.substr(tag.size());
}

void check_fields(const Definition& definition, const Task& task) {
  const TaskFields& fields = *task.fields;
  if (!fields.target.given()) definition.bad("doc_to_target", "is missing");
  const bool chooses = task.output == Output::kMultipleChoice;
  if (chooses && !fields.choices.given()) definition.bad("doc_to_choice", "is missing; multiple_choice needs it");
  if (!chooses && fields.choices.given()) definition.bad("doc_to_choice", "is of no meaning without multiple_choice");
  const bool asks = chooses || task.output == Output::kLoglikelihood;
  if (asks && !fields.text.given()) definition.bad("doc_to_text", "is missing");
}

void read_examples(const Definition& task_definition, Task& task, TaskFields& fields) {
  std::string split = task_definition.text("fewshot_split");
  if (task_definition.has("fewshot_config")) {
    const Definition config = task_definition.inner("fewshot_config");
    config.check_keys({"sampler", "split", "samples"});
    const std::string sampler = config.text("sampler", "default");
    if (sampler != "default" && sampler != "first_n") config.expected("sampler", "default or first_n");
    task.first_examples = sampler == "first_n";
    split = config.text("split", split);
    if (config.has("samples")) {
      if (!config.at("samples").is_array()) config.expected("samples", "a list of rows");
      for (const Json& row : config.at("samples")) fields.examples.emplace_back(row);
    }
  }
  const std::string training = task_definition.text("training_split"),
                    validation = task_definition.text("validation_split"), test = task_definition.text("test_split");
  task.drop_document = split == test;
  const std::string by_rule = !training.empty() ? training : !validation.empty() ? validation : test;
  task.examples_split = split.empty() ? by_rule : split;
  if (!split.empty()) fields.examples.clear();
}

void read_files(const Definition& definition, Task& task) {
  if (!definition.has("dataset_kwargs")) return;
  const Definition kwargs = definition.inner("dataset_kwargs");
  if (!kwargs.has("data_files")) return;
  const Json& files = kwargs.at("data_files");
  if (files.is_string()) {
    task.files["train"] = files.get<std::string>();  // as the library of datasets has it
    return;
  }
  if (!files.is_object()) kwargs.expected("data_files", "a file for each split");
  for (const auto& entry : files.items()) {
    if (!entry.value().is_string()) kwargs.expected("data_files", "a file for each split");
    task.files[entry.key()] = entry.value().get<std::string>();
  }
}

const Names& task_keys() {
  static const Names keys = {"task",
                             "task_alias",
                             "tag",
                             "dataset_path",
                             "dataset_name",
                             "dataset_kwargs",
                             "training_split",
                             "validation_split",
                             "test_split",
                             "fewshot_split",
                             "process_docs",
                             "doc_to_text",
                             "doc_to_target",
                             "doc_to_choice",
                             "process_results",
                             "description",
                             "target_delimiter",
                             "fewshot_delimiter",
                             "fewshot_config",
                             "num_fewshot",
                             "metric_list",
                             "output_type",
                             "repeats",
                             "should_decontaminate",
                             "doc_to_decontamination_query",
                             "metadata"};
  return keys;
}

}  // namespace

std::shared_ptr<const Task> make_task(const Json& object, const std::string& source) {
  const Definition definition(object, source);
  definition.check_keys(task_keys());
  auto task = std::make_shared<Task>();
  auto fields = std::make_shared<TaskFields>();
  task->source = source;
  task->name = definition.text("task");
  task->alias = definition.text("task_alias", task->name);
  task->output = read_output(definition);
  task->split = definition.text("test_split", definition.text("validation_split"));
  if (task->split.empty()) definition.bad("test_split", "is missing, and so is 'validation_split': nothing is scored");
  read_examples(definition, *task, *fields);
  read_files(definition, *task);
  if (definition.has("num_fewshot")) {
    if (!definition.at("num_fewshot").is_number_unsigned()) definition.expected("num_fewshot", "a number of examples");
    task->num_fewshot = definition.at("num_fewshot").get<int64_t>();
  }
  if (definition.has("repeats") && definition.at("repeats") != 1) definition.expected("repeats", "1");
  task->target_delimiter = definition.text("target_delimiter", " ");
  task->fewshot_delimiter = definition.text("fewshot_delimiter", "\n\n");
  task->metrics = read_metrics(definition, task->output);
  const auto field = [](const Json& value) { return TaskField(value); };
  fields->text = definition.make("doc_to_text", field);
  fields->target = definition.make("doc_to_target", field);
  fields->choices = definition.make("doc_to_choice", field);
  fields->description = definition.make("description", field);
  if (definition.has("process_docs")) {
    const std::string name = function_name(definition, "process_docs");
    fields->process_docs = definition.make("process_docs", [&](const Json&) { return find_process_docs(name); });
  }
  if (definition.has("process_results")) {
    if (task->output != Output::kRolling) definition.bad("process_results", "is not supported but for perplexities");
    const std::string name = function_name(definition, "process_results");
    fields->counted = definition.make("process_results", [&](const Json&) { return TaskField(find_counted(name)); });
  }
  task->fields = fields;
  check_fields(definition, *task);
  const Json& metadata = definition.at("metadata");
  task->version = metadata.is_object() && metadata.contains("version") ? OrderedJson(metadata["version"]) : "Yaml";
  if (metadata.is_object() && metadata.contains("columns") && metadata["columns"].is_string())
    task->columns = metadata["columns"].get<std::string>();
  task->config = OrderedJson(object);
  return task;
}

TaskGroup make_group(const Json& object, const std::string& source) {
  const Definition definition(object, source);
  definition.check_keys({"group", "group_alias", "task", "aggregate_metric_list", "averages", "metadata", "tag"});
  TaskGroup group;
  group.name = definition.text("group");
  group.alias = definition.text("group_alias", group.name);
  const Json& metadata = definition.at("metadata");
  group.version = metadata.is_object() && metadata.contains("version") ? OrderedJson(metadata["version"]) : "N/A";
  const Json& aggregates = definition.at("aggregate_metric_list");
  if (!aggregates.is_null() && !aggregates.is_array()) definition.expected("aggregate_metric_list", "a list");
  for (const Json& entry : aggregates) {
    const Definition one(entry, cat(source, ": 'aggregate_metric_list'"));
    one.check_keys({"metric", "aggregation", "weight_by_size", "filter_list"});
    if (one.text("aggregation", "mean") != "mean") one.expected("aggregation", "mean");
    group.aggregates.push_back({one.text("metric"), one.flag("weight_by_size", true)});
  }
  const Json& averages = definition.at("averages");
  if (!averages.is_null() && !averages.is_array()) definition.expected("averages", "a list");
  for (const Json& entry : averages) {
    const Definition one(entry, cat(source, ": 'averages'"));
    one.check_keys({"name", "metrics"});
    TaskGroup::Average average{one.text("name"), {}};
    if (!one.at("metrics").is_object()) one.expected("metrics", "a metric for each task");
    for (const auto& metric : one.at("metrics").items())
      average.metrics.emplace_back(metric.key(), one.inner("metrics").text(metric.key()));
    group.averages.push_back(std::move(average));
  }
  return group;
}

}  // namespace liger::eval
