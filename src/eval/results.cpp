#include "liger/eval/results.h"

#include <algorithm>
#include <array>
#include <chrono>
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

bool is_choice(const TaskResult& result) { return result.task->kind == Task::Kind::kMultipleChoice; }

OrderedJson metrics_json(const TaskResult& result) {
  OrderedJson values = {{"name", result.task->name}, {"alias", result.task->name}, {"sample_len", result.scored}};
  const std::string filter = is_choice(result) ? ",none" : "";
  for (const Metric& metric : result.metrics) {
    if (metric.name == "tokens") {
      values[metric.name] = static_cast<int64_t>(metric.value);
    } else {
      values[metric.name + filter] = metric.value;
    }
    if (!metric.has_standard_error) continue;
    OrderedJson& error = values[metric.name + "_stderr" + filter];
    error = metric.standard_error ? OrderedJson(*metric.standard_error) : OrderedJson("N/A");
  }
  return values;
}

OrderedJson config_json(const TaskResult& result) {
  OrderedJson metrics = OrderedJson::array();
  for (const Metric& metric : result.metrics) {
    metrics.push_back({{"metric", metric.name}, {"higher_is_better", metric.higher_is_better}});
  }
  return {{"task", result.task->name},
          {"dataset_path", result.file.string()},
          {"dataset_sha256", sha256_file(result.file)},
          {"test_split", result.task->split},
          {"target_delimiter", " "},
          {"fewshot_delimiter", "\n\n"},
          {"num_fewshot", result.shots},
          {"metric_list", metrics},
          {"output_type", is_choice(result) ? "multiple_choice" : "loglikelihood_rolling"},
          {"metadata", {{"version", result.task->version}}}};
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
          {"fewshot_seed", options.fewshot_seed}};
}

std::string fixed(double value) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(4) << value;
  return out.str();
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

OrderedJson results_json(const std::vector<TaskResult>& results, const EvalOptions& options, const RunDescription& run,
                         const Tokenizer& tokenizer) {
  OrderedJson document;
  for (const char* key :
       {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples"}) {
    document[key] = OrderedJson::object();
  }
  OrderedJson hashes = OrderedJson::object();
  for (const TaskResult& result : results) {
    const std::string name = result.task->name;
    document["results"][name] = metrics_json(result);
    document["group_subtasks"][name] = OrderedJson::array();
    document["configs"][name] = config_json(result);
    document["versions"][name] = result.task->version;
    document["n-shot"][name] = result.shots;
    for (const Metric& metric : result.metrics) {
      document["higher_is_better"][name][metric.name] = metric.higher_is_better;
    }
    document["n-samples"][name] = {{"original", result.original}, {"effective", result.scored}};
    if (!result.samples.empty()) hashes[name] = task_hash(result);
  }
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

std::string results_table(const std::vector<TaskResult>& results) {
  using Row = std::array<std::string, 9>;
  std::vector<Row> rows = {{"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"}};
  for (const TaskResult& result : results) {
    bool first = true;
    for (const Metric& metric : result.metrics) {
      const bool count = metric.name == "tokens";
      const std::string error = metric.standard_error ? fixed(*metric.standard_error) : "N/A";
      rows.push_back({first ? result.task->name : "", first ? cat(result.task->version) : "", "none",
                      std::to_string(result.shots), metric.name,
                      count                     ? ""
                      : metric.higher_is_better ? "↑"
                                                : "↓",
                      count ? std::to_string(static_cast<int64_t>(metric.value)) : fixed(metric.value),
                      metric.has_standard_error ? "±" : "", metric.has_standard_error ? error : ""});
      first = false;
    }
  }
  std::array<size_t, 9> width{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      width[i] = std::max({width[i], size_t{3}, static_cast<size_t>(eval::code_points(row[i]))});
    }
  }
  std::string table;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t i = 0; i < width.size(); ++i) {
      const bool number = i == 1 || i == 3 || i == 6 || i == 8;
      const std::string padding(width[i] - static_cast<size_t>(eval::code_points(rows[r][i])), ' ');
      table += '|';
      table += number && r > 0 ? padding + rows[r][i] : rows[r][i] + padding;
    }
    table += "|\n";
    if (r > 0) continue;
    for (size_t i = 0; i < width.size(); ++i) {
      const bool number = i == 1 || i == 3 || i == 6 || i == 8;
      table += '|';
      table.append(width[i] - (number ? 1 : 0), '-').append(number ? ":" : "");
    }
    table += "|\n";
  }
  return table;
}

std::filesystem::path write_results(const std::filesystem::path& dir, const std::vector<TaskResult>& results,
                                    const OrderedJson& document, const RunDescription& run) {
  const std::filesystem::path folder = dir / folder_name(run.model);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "cannot create ", folder.string(), ": ", error.message());
  const std::string time = file_time(run.started + run.seconds);
  for (const TaskResult& result : results) {
    if (result.samples.empty()) continue;
    AtomicFile file(folder / cat("samples_", result.task->name, "_", time, ".jsonl"));
    for (const OrderedJson& sample : result.samples) file.write(eval::python_json(sample, 0) + "\n");
    file.commit();
  }
  write_text_atomic(folder / ("results_" + time + ".json"), eval::python_json(document, 2));
  return folder;
}

}  // namespace liger
