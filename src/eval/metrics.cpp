#include "eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>

#include "eval/python_random.h"
#include "liger/error.h"

namespace liger::eval {
namespace {

constexpr int64_t kDraws = 100000, kDrawsOfASeed = 1000;

using Output = Task::Output;

const std::vector<TaskMetric>& metrics_of(Output output) {
  static const std::vector<TaskMetric> choice = {{"acc"}, {"acc_norm"}, {"acc_bytes"}, {"exact_match"}};
  static const std::vector<TaskMetric> continuation = {{"perplexity", Aggregation::kPerplexity, false}, {"acc"}};
  static const std::vector<TaskMetric> rolling = {{"word_perplexity", Aggregation::kWeightedPerplexity, false},
                                                  {"byte_perplexity", Aggregation::kWeightedPerplexity, false},
                                                  {"bits_per_byte", Aggregation::kBitsPerByte, false}};
  static const std::vector<TaskMetric> tokens = {{"loss", Aggregation::kMean, false},
                                                 {"perplexity", Aggregation::kPerplexity, false},
                                                 {"tokens", Aggregation::kMean, true}};
  switch (output) {
    case Output::kMultipleChoice: return choice;
    case Output::kLoglikelihood: return continuation;
    case Output::kRolling: return rolling;
    case Output::kTokens: break;
  }
  return tokens;
}

double mean(std::span<const MetricValue> values) {
  double sum = 0.0;
  for (const MetricValue& value : values) sum += value.value;
  return sum / static_cast<double>(values.size());
}

double weighted_mean(std::span<const MetricValue> values) {
  double sum = 0.0, weights = 0.0;
  for (const MetricValue& value : values) {
    sum += value.value;
    weights += value.weight;
  }
  return sum / weights;
}

double standard_deviation(std::span<const double> values) {
  double center = 0.0, squares = 0.0;
  for (const double value : values) center += value;
  center /= static_cast<double>(values.size());
  for (const double value : values) squares += (value - center) * (value - center);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

// exp(-mean) of as many values drawn with replacement, kDraws times: seeds 0, 1, ... give kDrawsOfASeed each.
std::vector<double> drawn_perplexities(std::span<const MetricValue> values) {
  std::vector<double> drawn(kDraws);
  const auto draw = [&](uint32_t seed) {
    PythonRandom random(seed);
    const auto n = static_cast<double>(values.size());
    for (int64_t i = 0; i < kDrawsOfASeed; ++i) {
      double sum = 0.0;
      for (size_t k = 0; k < values.size(); ++k) sum += values[static_cast<size_t>(random.real() * n)].value;
      drawn[seed * kDrawsOfASeed + i] = std::exp(-sum / n);
    }
  };
  const uint32_t threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::jthread> workers;
  for (uint32_t first = 0; first < threads; ++first) {
    workers.emplace_back([&, first] {
      for (uint32_t seed = first; seed < kDraws / kDrawsOfASeed; seed += threads) draw(seed);
    });
  }
  workers.clear();
  return drawn;
}

}  // namespace

const TaskMetric* find_metric(Output output, const std::string& name) {
  for (const TaskMetric& metric : metrics_of(output))
    if (metric.name == name) return &metric;
  return nullptr;
}

std::string metric_names(Output output) {
  std::string names;
  for (const TaskMetric& metric : metrics_of(output)) names += (names.empty() ? "" : ", ") + metric.name;
  return names;
}

std::vector<TaskMetric> default_metrics(Output output) {
  std::vector<TaskMetric> metrics = metrics_of(output);
  if (output == Output::kMultipleChoice) metrics.resize(2);  // acc and acc_norm
  return metrics;
}

const char* aggregation_name(Aggregation aggregation) {
  switch (aggregation) {
    case Aggregation::kMean: return "mean";
    case Aggregation::kPerplexity: return "perplexity";
    case Aggregation::kWeightedPerplexity: return "weighted_perplexity";
    case Aggregation::kBitsPerByte: break;
  }
  return "bits_per_byte";
}

double aggregate(Aggregation aggregation, std::span<const MetricValue> values) {
  switch (aggregation) {
    case Aggregation::kMean: return mean(values);
    case Aggregation::kPerplexity: return std::exp(-mean(values));
    case Aggregation::kWeightedPerplexity: return std::exp(-weighted_mean(values));
    case Aggregation::kBitsPerByte: break;
  }
  return -weighted_mean(values) / std::numbers::ln2;
}

std::optional<double> standard_error(Aggregation aggregation, std::span<const MetricValue> values) {
  if (values.size() < 2) return {};
  if (aggregation == Aggregation::kPerplexity) return standard_deviation(drawn_perplexities(values));
  if (aggregation != Aggregation::kMean) return {};
  std::vector<double> plain;
  for (const MetricValue& value : values) plain.push_back(value.value);
  return standard_deviation(plain) / std::sqrt(static_cast<double>(plain.size()));
}

int64_t best(std::span<const double> values, std::span<const double> lengths) {
  size_t best = 0;
  for (size_t i = 1; i < values.size(); ++i)
    if (values[i] / lengths[i] > values[best] / lengths[best]) best = i;
  return static_cast<int64_t>(best);
}

}  // namespace liger::eval
