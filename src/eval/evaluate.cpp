#include "liger/eval/evaluate.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "eval/counting.h"
#include "eval/task_fields.h"
#include "liger/error.h"
#include "liger/eval/request.h"
#include "liger/eval/response_log.h"
#include "liger/io/log.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

using Output = Task::Output;

int64_t limited(std::optional<double> limit, int64_t rows) {
  if (!limit) return rows;
  const double wanted = *limit < 1.0 ? std::ceil(static_cast<double>(rows) * *limit) : std::floor(*limit);
  return static_cast<int64_t>(std::min(wanted, static_cast<double>(rows)));
}

int64_t shots_of(const Task& task, std::optional<int64_t> asked) {
  if (task.output == Output::kTokens) return 0;
  if (!asked || task.num_fewshot == 0) return task.num_fewshot.value_or(0);
  return *asked;
}

TaskData read_examples(const Task& task, const EvalOptions& options) {
  if (task.fields->examples.empty()) return read_task_data(task, task.examples_split, options.data);
  TaskData own{task.source, task.fields->examples, {}};
  own.lines.resize(own.rows.size(), 1);
  return own;
}

PreparedTask prepare(std::shared_ptr<const Task> task, const EvalOptions& options, PromptOptions prompt) {
  PreparedTask prepared{
      task, read_task_data(*task, task->split, options.data), shots_of(*task, options.num_fewshot), {}};
  const int64_t rows = limited(options.limit, std::ssize(prepared.data.rows));
  const bool has_examples = prepared.shots > 0 && task->output != Output::kRolling;
  const TaskData examples = has_examples ? read_examples(*task, options) : TaskData{};
  // A whole document has nothing in front, though lm-evaluation-harness counts the examples it was asked for.
  prompt.shots = has_examples ? prepared.shots : 0;
  prepared.documents = build_documents(*task, prepared.data, examples, rows, prompt);
  return prepared;
}

// The requests of a task, and where those of each document end.
struct Requests {
  std::vector<ScoreRequest> all;
  std::vector<size_t> end_of;
};

Requests encode(const RequestEncoder& encoder, const PreparedTask& task) {
  Requests requests;
  for (const Document& document : task.documents) {
    with_context(task.data.where(document.row), [&] {
      for (size_t i = 0; i < document.continuations.size(); ++i) {
        const std::string& text = document.continuations[i];
        if (!document.contexts.empty()) {
          requests.all.push_back(encoder.encode(document.context(i), text));
          continue;
        }
        std::vector<ScoreRequest> windows =
            task.task->output == Output::kRolling ? encoder.encode_rolling(text) : encoder.encode_document(text);
        LIGER_CHECK(!windows.empty(), "the text has no tokens");
        std::move(windows.begin(), windows.end(), std::back_inserter(requests.all));
      }
    });
    requests.end_of.push_back(requests.all.size());
  }
  return requests;
}

// Windows of one document are one answer.
Score total(std::span<const Score> windows) {
  Score sum;
  for (const Score& window : windows) {
    sum.log_likelihood += window.log_likelihood;
    sum.greedy = sum.greedy && window.greedy;
  }
  return sum;
}

std::vector<Metric> token_metrics(double log_likelihood, int64_t tokens) {
  const double loss = -log_likelihood / static_cast<double>(tokens);
  return {{"loss", loss, false, false, {}},
          {"perplexity", std::exp(loss), false, false, {}},
          {"tokens", static_cast<double>(tokens), true, false, {}}};
}

std::vector<Metric> task_metrics(const Task& task, const std::vector<std::vector<eval::MetricValue>>& values) {
  std::vector<Metric> metrics;
  for (size_t i = 0; i < task.metrics.size(); ++i) {
    const TaskMetric& metric = task.metrics[i];
    metrics.push_back({metric.name, eval::aggregate(metric.aggregation, values[i]), metric.higher_is_better, true,
                       eval::standard_error(metric.aggregation, values[i])});
  }
  return metrics;
}

TaskResult evaluate_task(const PreparedTask& task, const Requests& requests, const std::vector<Score>& scores,
                         bool keep_samples) {
  TaskResult result{task.task, task.data.file, task.shots, std::ssize(task.data.rows), std::ssize(task.documents), {},
                    {}};
  std::vector<std::vector<eval::MetricValue>> values(task.task->metrics.size());
  int64_t all_tokens = 0;
  for (size_t i = 0, begin = 0; i < task.documents.size(); begin = requests.end_of[i++]) {
    const Document& document = task.documents[i];
    const size_t end = requests.end_of[i];
    int64_t tokens = 0;
    for (size_t j = begin; j < end; ++j) tokens += std::ssize(requests.all[j].continuation);
    std::span<const Score> own = std::span(scores).subspan(begin, end - begin);
    const Score whole = total(own);
    if (document.contexts.empty()) own = std::span(&whole, 1);
    const std::vector<eval::MetricValue> counted = eval::count(*task.task, document, own, tokens);
    for (size_t m = 0; m < counted.size(); ++m) values[m].push_back(counted[m]);
    if (keep_samples) result.samples.push_back(eval::sample_of(task, document, own, counted));
    all_tokens += tokens;
  }
  result.metrics = task.task->output == Output::kTokens ? token_metrics(total(scores).log_likelihood, all_tokens)
                                                        : task_metrics(*task.task, values);
  return result;
}

}  // namespace

int64_t PreparedTask::requests() const {
  int64_t count = 0;
  for (const Document& document : documents) count += std::ssize(document.continuations);
  return count;
}

PreparedTasks prepare_tasks(const EvalOptions& options, const Tokenizer* tokenizer) {
  LIGER_CHECK_USAGE(!options.limit || *options.limit > 0, "--limit must be above 0, got ", *options.limit);
  PromptOptions prompt{0, options.fewshot_seed, options.system_instruction, {}, options.fewshot_as_multiturn};
  std::optional<ChatFormat> format;
  if (!options.chat_template.empty()) {
    const std::string setting = "--apply_chat_template";
    format.emplace(chat_template_named(options.chat_template, setting), *tokenizer, setting);
    prompt.chat = [&](std::span<const Message> messages) { return chat_text(*format, *tokenizer, messages); };
  }
  TaskSelection selection = TaskIndex(options.include_paths).select(options.tasks);
  PreparedTasks prepared{{}, std::move(selection.groups)};
  for (const auto& task : selection.tasks) prepared.tasks.push_back(prepare(task, options, prompt));
  return prepared;
}

int64_t max_length(const CausalLM& model) {
  const int64_t positions = model.config().max_position_embeddings;
  return positions > 0 ? positions : 2048;
}

Evaluation evaluate(CausalLM& model, const Tokenizer& tokenizer, const PreparedTasks& prepared,
                    const EvalOptions& options, ResponseLog* log) {
  model.eval();
  const RequestEncoder encoder(tokenizer, max_length(model));
  int64_t all = 0, before = 0;
  for (const PreparedTask& task : prepared.tasks) all += task.requests();
  Progress progress("scoring", all, 10, log ? std::min(all, log->found()) : 0);
  Evaluation evaluation;
  for (const PreparedTask& task : prepared.tasks) {
    const Requests requests = encode(encoder, task);
    const double share = static_cast<double>(task.requests()) / static_cast<double>(requests.all.size());
    ScoringOptions scoring = options.scoring;
    if (log) {
      scoring.known = [&](int64_t i) { return log->find(requests.all[i]); };
      scoring.finished = [&](int64_t i, const Score& score) { log->add(requests.all[i], score); };
    }
    const std::vector<Score> scores = score(model, requests.all, scoring, [&](int64_t done) {
      progress.update(before + static_cast<int64_t>(share * static_cast<double>(done)), task.task->name);
    });
    before += task.requests();
    evaluation.tasks.push_back(evaluate_task(task, requests, scores, options.keep_samples));
  }
  progress.finish(cat(prepared.tasks.size(), prepared.tasks.size() == 1 ? " task" : " tasks"));
  evaluation.groups = group_results(prepared.groups, evaluation.tasks);
  return evaluation;
}

}  // namespace liger
