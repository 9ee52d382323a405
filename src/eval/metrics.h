#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "liger/eval/task.h"

namespace liger::eval {

/// What a document counts for in a metric; the weight is that of weighted aggregations: words, bytes.
struct MetricValue {
  double value = 0.0, weight = 1.0;
};

/// The metrics a task of this kind may ask for, nullptr for others; those it has if it does not ask.
const TaskMetric* find_metric(Task::Output output, const std::string& name);
std::string metric_names(Task::Output output);
std::vector<TaskMetric> default_metrics(Task::Output output);
const char* aggregation_name(Aggregation aggregation);

double aggregate(Aggregation aggregation, std::span<const MetricValue> values);
/// Of a mean s / sqrt(n) with s over n - 1; of a perplexity that of 100,000 draws with replacement, which are those of
/// CPython's random.choices; absent for the others, and for fewer than two values.
std::optional<double> standard_error(Aggregation aggregation, std::span<const MetricValue> values);

/// The first index with the highest of values[i] / lengths[i].
int64_t best(std::span<const double> values, std::span<const double> lengths);

}  // namespace liger::eval
