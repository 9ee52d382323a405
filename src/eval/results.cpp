#include "liger/eval/results.h"

#include <cmath>
#include <ctime>
#include <iomanip>
#include <sstream>

#include "eval/python_text.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/tokenizer.h"

namespace liger {
namespace {

bool is_of_tokens(const Task& task) { return task.output == Task::Output::kTokens; }

void add_metrics(OrderedJson& values, const std::vector<Metric>& metrics, const std::string& filter) {
  for (const Metric& metric : metrics) {
    OrderedJson& value = values[metric.name + filter];
    value = metric.name == "tokens" ? OrderedJson(static_cast<int64_t>(metric.value)) : OrderedJson(metric.value);
    if (!metric.has_standard_error) continue;
    OrderedJson& error = values[metric.name + "_stderr" + filter];
    error = metric.standard_error ? OrderedJson(*metric.standard_error) : OrderedJson("N/A");
  }
}

OrderedJson metrics_json(const TaskResult& result) {
  OrderedJson values = {{"name", result.task->name}, {"alias", result.task->alias}, {"sample_len", result.scored}};
  add_metrics(values, result.metrics, is_of_tokens(*result.task) ? "" : ",none");
  return values;
}

OrderedJson metrics_json(const GroupResult& result) {
  OrderedJson values = {{"alias", result.group.alias}, {"name", result.group.name}};
  if (result.metrics.empty()) return values;
  values["sample_len"] = result.scored;
  add_metrics(values, result.metrics, ",none");
  OrderedJson counts = OrderedJson::object();
  for (const TaskGroup::Aggregate& wanted : result.group.aggregates) counts[wanted.metric + ",none"] = result.scored;
  if (!counts.empty()) values["sample_count"] = counts;
  return values;
}

OrderedJson config_json(const TaskResult& result) {
  OrderedJson config = result.task->config;
  config["num_fewshot"] = result.shots;
  config["target_delimiter"] = result.task->target_delimiter;
  config["fewshot_delimiter"] = result.task->fewshot_delimiter;
  config["data_file"] = result.file.string();
  config["data_sha256"] = sha256_file(result.file);
  return config;
}

// The hash of every sample's three hashes, by which two runs can be seen to have asked the same.
std::string task_hash(const TaskResult& result) {
  std::string hashes;
  for (const OrderedJson& sample : result.samples) {
    for (const char* key : {"doc_hash", "prompt_hash", "target_hash"}) hashes += sample[key].get<std::string>();
  }
  return sha256_hex(hashes);
}

OrderedJson token_json(const Tokenizer& tokenizer, std::optional<int64_t> id) {
  if (!id) return {nullptr, "None"};
  return {tokenizer.token(*id), std::to_string(*id)};
}

OrderedJson run_json(const EvalOptions& options, const RunDescription& run) {
  std::string arguments = "pretrained=" + run.model + ",dtype=" + run.dtype;
  if (!run.adapter.empty()) arguments += ",peft=" + run.adapter;
  return {{"model", "liger"},
          {"model_args", arguments},
          {"model_num_parameters", run.parameters},
          {"model_dtype", run.dtype},
          {"softmax_dtype", options.scoring.model_softmax ? "model" : "float32"},
          {"batch_size", run.batch_size},
          {"device", run.device},
          {"limit", run.limit ? OrderedJson(*run.limit) : OrderedJson()},
          {"bootstrap_iters", 100000},
          {"fewshot_seed", options.fewshot_seed},
          {"chat_template", options.chat_template.empty() ? OrderedJson() : OrderedJson(options.chat_template)},
          {"fewshot_as_multiturn", options.fewshot_as_multiturn},
          {"system_instruction",
           options.system_instruction.empty() ? OrderedJson() : OrderedJson(options.system_instruction)}};
}

// "/models/a b" -> "__models__a b", as lm-evaluation-harness names its folders.
std::string folder_name(const std::string& model) {
  std::string name;
  bool replaced = false;
  for (const char c : model) {
    const bool forbidden = std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos;
    if (!forbidden) {
      name += c;
    } else if (!replaced) {
      name += "__";
    }
    replaced = forbidden;
  }
  return name;
}

// Local time as in 2026-03-01T12-34-56.123456.
std::string file_time(double seconds) {
  const double whole = std::floor(seconds);
  const auto time = static_cast<std::time_t>(whole);
  std::tm local{};
  localtime_r(&time, &local);
  std::ostringstream out;
  out << std::put_time(&local, "%Y-%m-%dT%H-%M-%S.") << std::setw(6) << std::setfill('0')
      << static_cast<int64_t>((seconds - whole) * 1e6);
  return out.str();
}

}  // namespace

OrderedJson results_json(const Evaluation& evaluation, const EvalOptions& options, const RunDescription& run,
                         const Tokenizer& tokenizer) {
  OrderedJson document;
  for (const char* key :
       {"results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"}) {
    document[key] = OrderedJson::object();
  }
  OrderedJson hashes = OrderedJson::object();
  const auto add_higher = [&](const std::string& name, const std::vector<Metric>& metrics) {
    for (const Metric& metric : metrics) document["higher_is_better"][name][metric.name] = metric.higher_is_better;
  };
  for (const TaskResult& result : evaluation.tasks) {
    const std::string& name = result.task->name;
    document["results"][name] = metrics_json(result);
    document["configs"][name] = config_json(result);
    document["versions"][name] = result.task->version;
    document["n-shot"][name] = result.shots;
    add_higher(name, result.metrics);
    document["n-samples"][name] = {{"original", result.original}, {"effective", result.scored}};
    if (!result.samples.empty()) hashes[name] = task_hash(result);
  }
  for (const GroupResult& result : evaluation.groups) {
    const std::string& name = result.group.name;
    document["results"][name] = metrics_json(result);
    if (!result.metrics.empty()) document["groups"][name] = document["results"][name];
    document["group_subtasks"][name] = result.group.children;
    document["versions"][name] =
        result.group.version.is_string() ? result.group.version : OrderedJson(result.group.version.dump());
    if (result.shots) document["n-shot"][name] = *result.shots;
    add_higher(name, result.metrics);
  }
  if (document["groups"].empty()) document.erase("groups");
  document["config"] = run_json(options, run);
  document["git_hash"] = nullptr;
  document["date"] = run.started;
  document["tokenizer_eos_token"] = token_json(tokenizer, tokenizer.eos());
  document["tokenizer_bos_token"] = token_json(tokenizer, tokenizer.bos());
  document["eot_token_id"] = tokenizer.eos() ? OrderedJson(*tokenizer.eos()) : OrderedJson();
  document["max_length"] = run.max_length;
  document["task_hashes"] = hashes;
  document["model_source"] = "liger";
  document["model_name"] = run.model;
  document["model_name_sanitized"] = folder_name(run.model);
  document["lm_eval_version"] = "0.4.13";
  document["total_evaluation_time_seconds"] = eval::python_repr(run.seconds);
  return document;
}

std::filesystem::path results_folder(const std::filesystem::path& dir, const std::string& model) {
  return dir / folder_name(model);
}

void write_results(const std::filesystem::path& folder, const Evaluation& evaluation, const OrderedJson& document,
                   const RunDescription& run) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "cannot create ", folder.string(), ": ", error.message());
  const std::string time = file_time(run.started + run.seconds);
  for (const TaskResult& result : evaluation.tasks) {
    if (result.samples.empty()) continue;
    AtomicFile file(folder / cat("samples_", result.task->name, "_", time, ".jsonl"));
    for (const OrderedJson& sample : result.samples) file.write(eval::python_json(sample, 0) + "\n");
    file.commit();
  }
  write_text_atomic(folder / ("results_" + time + ".json"), eval::python_json(document, 2));
}

}  // namespace liger
