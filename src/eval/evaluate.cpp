#include "liger/eval/evaluate.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "eval/metrics.h"
#include "eval/python_text.h"
#include "eval/row.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/log.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

int64_t limited(std::optional<double> limit, int64_t rows) {
  if (!limit) return rows;
  const double wanted = *limit < 1.0 ? std::ceil(static_cast<double>(rows) * *limit) : std::floor(*limit);
  return static_cast<int64_t>(std::min(wanted, static_cast<double>(rows)));
}

PreparedTask prepare(const Task& task, const EvalOptions& options) {
  PreparedTask prepared{&task, read_task_data(task, task.split, options.data), {}, 0, 0, {}};
  prepared.scored = limited(options.limit, std::ssize(prepared.documents.rows));
  if (task.kind == Task::Kind::kPerplexity) return prepared;
  prepared.shots = options.num_fewshot;
  if (prepared.shots > 0) prepared.examples = read_task_data(task, task.examples_split, options.data);
  prepared.prompts =
      build_prompts(task, prepared.documents, prepared.examples, prepared.scored, prepared.shots, options.fewshot_seed);
  return prepared;
}

std::vector<Score> score_with_progress(CausalLM& model, const std::string& title,
                                       const std::vector<ScoreRequest>& requests, const ScoringOptions& options) {
  Progress progress(title, std::ssize(requests));
  std::vector<Score> scores = score(model, requests, options, [&](int64_t done) { progress.update(done); });
  progress.finish();
  return scores;
}

// The members every sample has; what Python would print for a tuple (log-likelihood, greedy) comes as two strings.
OrderedJson make_sample(int64_t row, const OrderedJson& document, const std::string& target,
                        const std::vector<std::vector<std::string>>& arguments, const OrderedJson& responses,
                        const std::vector<std::string>& metrics) {
  OrderedJson sample = {{"doc_id", row}, {"doc", document}, {"target", target}};
  OrderedJson& named = sample["arguments"] = OrderedJson::object();
  for (size_t i = 0; i < arguments.size(); ++i) {
    for (size_t j = 0; j < arguments[i].size(); ++j) {
      named[cat("gen_args_", i)][cat("arg_", j)] = arguments[i][j];
    }
  }
  sample["resps"] = OrderedJson::array();
  for (const OrderedJson& response : responses) sample["resps"].push_back(OrderedJson::array({response}));
  sample["filtered_resps"] = responses;
  sample["filter"] = "none";
  sample["metrics"] = metrics;
  sample["doc_hash"] = sha256_hex(eval::python_json(document, 2));
  sample["prompt_hash"] = sha256_hex(arguments.front().front());
  sample["target_hash"] = sha256_hex(target);
  return sample;
}

OrderedJson response_of(const Score& score) {
  return {eval::python_repr(score.log_likelihood), score.greedy ? "True" : "False"};
}

OrderedJson choice_sample(const PreparedTask& task, const Prompt& prompt, std::span<const Score> scores, double acc,
                          double acc_norm) {
  std::vector<std::vector<std::string>> arguments;
  OrderedJson responses = OrderedJson::array();
  for (size_t i = 0; i < scores.size(); ++i) {
    arguments.push_back({prompt.context, " " + prompt.question.choices[i]});
    responses.push_back(response_of(scores[i]));
  }
  OrderedJson sample = make_sample(prompt.row, task.documents.rows[prompt.row], std::to_string(prompt.question.gold),
                                   arguments, responses, {"acc", "acc_norm"});
  sample["acc"] = acc;
  sample["acc_norm"] = acc_norm;
  return sample;
}

void evaluate_choices(CausalLM& model, const RequestEncoder& encoder, const PreparedTask& task,
                      const EvalOptions& options, TaskResult& result) {
  std::vector<ScoreRequest> requests;
  for (const Prompt& prompt : task.prompts) {
    with_context(task.documents.where(prompt.row), [&] {
      for (const std::string& choice : prompt.question.choices) {
        requests.push_back(encoder.encode(prompt.context, " " + choice));
      }
    });
  }
  const std::vector<Score> scores = score_with_progress(model, task.task->name, requests, options.scoring);
  std::vector<double> acc, acc_norm;
  size_t first = 0;
  for (const Prompt& prompt : task.prompts) {
    const std::span<const Score> own = std::span(scores).subspan(first, prompt.question.choices.size());
    first += own.size();
    acc.push_back(eval::best_choice(own, prompt.question, false) == prompt.question.gold ? 1.0 : 0.0);
    acc_norm.push_back(eval::best_choice(own, prompt.question, true) == prompt.question.gold ? 1.0 : 0.0);
    if (options.keep_samples) {
      result.samples.push_back(choice_sample(task, prompt, own, acc.back(), acc_norm.back()));
    }
  }
  result.metrics = {{"acc", eval::mean(acc), true, true, eval::mean_standard_error(acc)},
                    {"acc_norm", eval::mean(acc_norm), true, true, eval::mean_standard_error(acc_norm)}};
}

OrderedJson document_sample(const PreparedTask& task, int64_t row, const std::string& text, double log_likelihood,
                            int64_t tokens) {
  OrderedJson responses = {eval::python_repr(log_likelihood)};
  OrderedJson sample = make_sample(row, task.documents.rows[row], text, {{text}}, responses, {"loss", "tokens"});
  sample["loss"] = -log_likelihood / static_cast<double>(tokens);
  sample["tokens"] = tokens;
  return sample;
}

void evaluate_documents(CausalLM& model, const RequestEncoder& encoder, const PreparedTask& task,
                        const EvalOptions& options, TaskResult& result) {
  std::vector<ScoreRequest> requests;
  std::vector<std::string> texts;
  std::vector<size_t> end_of;  // a document's requests end here
  for (int64_t row = 0; row < task.scored; ++row) {
    const std::string where = task.documents.where(row);
    texts.push_back(eval::text_field(task.documents.rows[row], "text", where));
    std::vector<ScoreRequest> windows = encoder.encode_document(texts.back());
    LIGER_CHECK(!windows.empty(), where, ": column 'text' has no tokens");
    std::move(windows.begin(), windows.end(), std::back_inserter(requests));
    end_of.push_back(requests.size());
  }
  const std::vector<Score> scores = score_with_progress(model, task.task->name, requests, options.scoring);
  double total = 0.0;
  int64_t tokens = 0;
  size_t i = 0;
  for (int64_t row = 0; row < task.scored; ++row) {
    double own = 0.0;
    int64_t own_tokens = 0;
    for (; i < end_of[row]; ++i) {
      own += scores[i].log_likelihood;
      own_tokens += std::ssize(requests[i].continuation);
    }
    if (options.keep_samples) result.samples.push_back(document_sample(task, row, texts[row], own, own_tokens));
    total += own;
    tokens += own_tokens;
  }
  const double loss = -total / static_cast<double>(tokens);
  result.metrics = {{"loss", loss, false, false, {}},
                    {"perplexity", std::exp(loss), false, false, {}},
                    {"tokens", static_cast<double>(tokens), true, false, {}}};
}

}  // namespace

std::vector<PreparedTask> prepare_tasks(const EvalOptions& options) {
  LIGER_CHECK_USAGE(!options.limit || *options.limit > 0, "--limit must be above 0, got ", *options.limit);
  std::vector<PreparedTask> tasks;
  for (const std::string& name : options.tasks) tasks.push_back(prepare(find_task(name), options));
  return tasks;
}

int64_t max_length(const CausalLM& model) {
  const int64_t positions = model.config().max_position_embeddings;
  return positions > 0 ? positions : 2048;
}

TaskResult evaluate(CausalLM& model, const Tokenizer& tokenizer, const PreparedTask& task, const EvalOptions& options) {
  model.eval();
  const RequestEncoder encoder(tokenizer, max_length(model));
  TaskResult result{task.task, task.documents.file, task.shots, std::ssize(task.documents.rows), task.scored, {}, {}};
  if (task.task->kind == Task::Kind::kPerplexity) {
    evaluate_documents(model, encoder, task, options, result);
  } else {
    evaluate_choices(model, encoder, task, options, result);
  }
  return result;
}

}  // namespace liger
