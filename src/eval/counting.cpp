#include "eval/counting.h"

#include <algorithm>
#include <functional>

#include "eval/python_text.h"
#include "eval/python_value.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger::eval {
namespace {

using Output = Task::Output;

// len(re.split(r"\s+", text))
double words(std::string_view text) {
  const size_t between = split(text).size();
  const bool starts = stripped(text, Ends::kLeft).size() != text.size();
  const bool ends = stripped(text, Ends::kRight).size() != text.size();
  if (between == 0) return starts ? 2 : 1;
  return static_cast<double>(between) + (starts ? 1 : 0) + (ends ? 1 : 0);
}

class Choices {
 public:
  Choices(const Document& document, std::span<const Score> scores) : document_(document), scores_(scores) {
    for (const Score& score : scores) log_likelihoods_.push_back(score.log_likelihood);
  }
  double metric(const std::string& name) const {
    if (name == "acc") return hit([](const std::string&) { return 1.0; });
    if (name == "acc_norm")
      return hit([](const std::string& choice) { return static_cast<double>(code_points(choice)); });
    if (name == "acc_bytes") return hit([](const std::string& choice) { return static_cast<double>(choice.size()); });
    return std::any_of(document_.gold.begin(), document_.gold.end(), [&](int64_t i) { return scores_[i].greedy; });
  }

 private:
  double hit(const std::function<double(const std::string&)>& length) const {
    std::vector<double> lengths;
    for (const std::string& choice : document_.choices) lengths.push_back(length(choice));
    const int64_t chosen = best(log_likelihoods_, lengths);
    return std::find(document_.gold.begin(), document_.gold.end(), chosen) != document_.gold.end();
  }

  const Document& document_;
  std::span<const Score> scores_;
  std::vector<double> log_likelihoods_;
};

// In the types that Python has them.
OrderedJson metric_json(Output output, const TaskMetric& metric, const MetricValue& value) {
  if (output == Output::kRolling) return {value.value, static_cast<int64_t>(value.weight)};
  const bool whole = metric.name == "tokens" || metric.name == "exact_match" ||
                     (output == Output::kLoglikelihood && metric.name == "acc");
  return whole ? OrderedJson(static_cast<int64_t>(value.value)) : OrderedJson(value.value);
}

}  // namespace

std::vector<MetricValue> count(const Task& task, const Document& document, std::span<const Score> scores,
                               int64_t tokens) {
  std::vector<MetricValue> values;
  const double log_likelihood = scores[0].log_likelihood;
  for (const TaskMetric& metric : task.metrics) {
    switch (task.output) {
      case Output::kMultipleChoice: values.push_back({Choices(document, scores).metric(metric.name)}); break;
      case Output::kLoglikelihood:
        values.push_back({metric.name == "acc" ? (scores[0].greedy ? 1.0 : 0.0) : log_likelihood});
        break;
      case Output::kRolling:
        values.push_back({log_likelihood, metric.name == "word_perplexity"
                                              ? words(document.counted)
                                              : static_cast<double>(document.counted.size())});
        break;
      case Output::kTokens: {
        const auto n = static_cast<double>(tokens);
        values.push_back({metric.name == "tokens" ? n : -log_likelihood / n, n});
        break;
      }
    }
  }
  return values;
}

OrderedJson sample_of(const PreparedTask& task, const Document& document, std::span<const Score> scores,
                      std::span<const MetricValue> values) {
  const OrderedJson& row = task.data.rows[document.row];
  OrderedJson sample = {{"doc_id", document.row}, {"doc", row}, {"target", document.target}};
  OrderedJson responses = OrderedJson::array();
  OrderedJson& arguments = sample["arguments"] = OrderedJson::object();
  for (size_t i = 0; i < scores.size(); ++i) {
    OrderedJson& own = arguments[cat("gen_args_", i)] = OrderedJson::object();
    // What Python would print for a tuple (log-likelihood, greedy) comes as two strings.
    const std::string log_likelihood = python_repr(scores[i].log_likelihood);
    if (document.contexts.empty()) {
      own["arg_0"] = document.continuations[i];
      responses.push_back(log_likelihood);
    } else {
      own["arg_0"] = document.context(i);
      own["arg_1"] = document.continuations[i];
      responses.push_back({log_likelihood, scores[i].greedy ? "True" : "False"});
    }
  }
  sample["resps"] = OrderedJson::array();
  for (const OrderedJson& response : responses) sample["resps"].push_back(OrderedJson::array({response}));
  sample["filtered_resps"] = responses;
  sample["filter"] = "none";
  sample["metrics"] = OrderedJson::array();
  for (const TaskMetric& metric : task.task->metrics) sample["metrics"].push_back(metric.name);
  sample["doc_hash"] = sha256_hex(python_json(row, 2));
  sample["prompt_hash"] = sha256_hex(document.contexts.empty() ? document.continuations[0] : document.contexts[0]);
  sample["target_hash"] = sha256_hex(document.target);
  for (size_t i = 0; i < values.size(); ++i)
    sample[task.task->metrics[i].name] = metric_json(task.task->output, task.task->metrics[i], values[i]);
  return sample;
}

}  // namespace liger::eval
