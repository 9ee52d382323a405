#include <algorithm>
#include <cmath>
#include <set>

#include "liger/error.h"
#include "liger/eval/evaluate.h"

namespace liger {
namespace {

const Metric* find_metric(const std::vector<Metric>& metrics, const std::string& name) {
  const auto found = std::find_if(metrics.begin(), metrics.end(), [&](const Metric& m) { return m.name == name; });
  return found == metrics.end() ? nullptr : &*found;
}

class Grouping {
 public:
  Grouping(const std::vector<TaskResult>& tasks, const std::vector<GroupResult>& groups)
      : tasks_(tasks), groups_(groups) {}

  const TaskResult* task(const std::string& name) const {
    const auto found =
        std::find_if(tasks_.begin(), tasks_.end(), [&](const TaskResult& t) { return t.task->name == name; });
    return found == tasks_.end() ? nullptr : &*found;
  }
  const GroupResult* group(const std::string& name) const {
    const auto found =
        std::find_if(groups_.begin(), groups_.end(), [&](const GroupResult& g) { return g.group.name == name; });
    return found == groups_.end() ? nullptr : &*found;
  }
  // Of a group and of the groups in it, each once. Inner groups come before outer ones.
  std::vector<const TaskResult*> leaves(const TaskGroup& group_of) const {
    std::vector<const TaskResult*> out;
    for (const std::string& child : group_of.children) {
      std::vector<const TaskResult*> own;
      if (const TaskResult* result = task(child)) {
        own = {result};
      } else if (const GroupResult* inner = group(child)) {
        own = leaves(inner->group);
      }
      for (const TaskResult* result : own)
        if (std::find(out.begin(), out.end(), result) == out.end()) out.push_back(result);
    }
    return out;
  }
  const Metric* metric(const std::string& name, const std::string& metric_name) const {
    if (const TaskResult* result = task(name)) return find_metric(result->metrics, metric_name);
    const GroupResult* inner = group(name);
    return inner == nullptr ? nullptr : find_metric(inner->metrics, metric_name);
  }

 private:
  const std::vector<TaskResult>& tasks_;
  const std::vector<GroupResult>& groups_;
};

std::optional<Metric> aggregate(const TaskGroup::Aggregate& wanted, const std::vector<const TaskResult*>& leaves) {
  Metric out{wanted.metric, 0.0, true, true, 0.0};
  double rows = 0.0, weights = 0.0, tasks = 0.0, pooled = 0.0, plain = 0.0;
  for (const TaskResult* leaf : leaves) {
    const Metric* metric = find_metric(leaf->metrics, wanted.metric);
    if (metric == nullptr) continue;
    const auto n = static_cast<double>(leaf->scored);
    const double weight = wanted.weight_by_size ? n : 1.0;
    out.value += weight * metric->value;
    out.higher_is_better = metric->higher_is_better;
    weights += weight;
    rows += n;
    tasks += 1;
    if (!metric->standard_error) {
      out.standard_error.reset();
      continue;
    }
    const double variance = *metric->standard_error * *metric->standard_error;
    pooled += (n - 1) * variance * n;
    plain += variance;
  }
  if (tasks == 0) return {};
  out.value /= weights;
  if (out.standard_error)
    out.standard_error = wanted.weight_by_size ? std::sqrt(pooled / (rows - tasks) / rows) : std::sqrt(plain) / tasks;
  return out;
}

std::optional<Metric> average(const TaskGroup::Average& wanted, const Grouping& grouping) {
  Metric out{wanted.name, 0.0, true, true, 0.0};
  double variance = 0.0;
  const auto count = static_cast<double>(wanted.metrics.size());
  for (const auto& [name, metric_name] : wanted.metrics) {
    const Metric* metric = grouping.metric(name, metric_name);
    LIGER_CHECK_USAGE(metric != nullptr, "average '", wanted.name, "': ", name, " has no metric '", metric_name, "'");
    out.value += metric->value / count;
    if (!metric->standard_error) out.standard_error.reset();
    variance += metric->standard_error.value_or(0.0) * metric->standard_error.value_or(0.0);
  }
  if (out.standard_error) out.standard_error = std::sqrt(variance) / count;
  return out;
}

std::optional<int64_t> common_shots(const TaskGroup& group, const Grouping& grouping) {
  std::set<int64_t> shots;
  for (const std::string& child : group.children) {
    if (const TaskResult* task = grouping.task(child)) {
      shots.insert(task->shots);
    } else if (const GroupResult* inner = grouping.group(child); inner != nullptr && inner->shots) {
      shots.insert(*inner->shots);
    }
  }
  return shots.size() == 1 ? std::optional(*shots.begin()) : std::nullopt;
}

}  // namespace

std::vector<GroupResult> group_results(const std::vector<TaskGroup>& groups, const std::vector<TaskResult>& tasks) {
  std::vector<GroupResult> results;
  for (const TaskGroup& group : groups) {
    const Grouping grouping(tasks, results);
    GroupResult result{group, {}, 0, common_shots(group, grouping)};
    const std::vector<const TaskResult*> leaves = grouping.leaves(group);
    for (const TaskResult* leaf : leaves) result.scored += leaf->scored;
    for (const TaskGroup::Aggregate& wanted : group.aggregates)
      if (auto metric = aggregate(wanted, leaves)) result.metrics.push_back(std::move(*metric));
    for (const TaskGroup::Average& wanted : group.averages)
      if (auto metric = average(wanted, grouping)) result.metrics.push_back(std::move(*metric));
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace liger
