#include <algorithm>
#include <array>
#include <iomanip>
#include <map>
#include <set>
#include <sstream>

#include "eval/python_text.h"
#include "liger/error.h"
#include "liger/eval/results.h"

namespace liger {
namespace {

constexpr size_t kColumns = 9;
using Row = std::array<std::string, kColumns>;

bool is_number(size_t column) { return column == 1 || column == 3 || column == 6 || column == 8; }

std::string fixed(double value) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(4) << value;
  return out.str();
}

std::string shown_version(const OrderedJson& version) {
  return version.is_string() ? version.get<std::string>() : version.dump();
}

class Table {
 public:
  explicit Table(const std::string& title) {
    rows_.push_back({title, "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"});
  }

  void add(const std::string& name, const std::string& version, const std::string& shots,
           const std::vector<Metric>& metrics) {
    bool first = true;
    for (const Metric& metric : metrics) {
      const bool count = metric.name == "tokens";
      const std::string error = metric.standard_error ? fixed(*metric.standard_error) : "N/A";
      rows_.push_back({first ? name : "", first ? version : "", "none", shots, metric.name,
                       count                     ? ""
                       : metric.higher_is_better ? "↑"
                                                 : "↓",
                       count ? std::to_string(static_cast<int64_t>(metric.value)) : fixed(metric.value),
                       metric.has_standard_error ? "±" : "", metric.has_standard_error ? error : ""});
      first = false;
    }
    if (metrics.empty()) rows_.push_back({name, version, "", shots, "", "", "", "", ""});
  }
  bool empty() const { return rows_.size() == 1; }

  std::string markdown() const {
    std::array<size_t, kColumns> width{};
    for (const Row& row : rows_)
      for (size_t i = 0; i < kColumns; ++i)
        width[i] = std::max({width[i], size_t{3}, static_cast<size_t>(eval::code_points(row[i]))});
    std::string table;
    for (size_t r = 0; r < rows_.size(); ++r) {
      for (size_t i = 0; i < kColumns; ++i) {
        const std::string padding(width[i] - static_cast<size_t>(eval::code_points(rows_[r][i])), ' ');
        table += '|';
        table += is_number(i) && r > 0 ? padding + rows_[r][i] : rows_[r][i] + padding;
      }
      table += "|\n";
      if (r > 0) continue;
      for (size_t i = 0; i < kColumns; ++i)
        table.append("|").append(width[i] - (is_number(i) ? 1 : 0), '-').append(is_number(i) ? ":" : "");
      table += "|\n";
    }
    return table;
  }

 private:
  std::vector<Row> rows_;
};

// Groups with what is in them below them, names of one level in their order.
class Walk {
 public:
  explicit Walk(const Evaluation& evaluation) : evaluation_(evaluation) {
    for (const GroupResult& result : evaluation.groups) {
      groups_[result.group.name] = &result;
      children_.insert(result.group.children.begin(), result.group.children.end());
    }
    for (const TaskResult& result : evaluation.tasks) tasks_[result.task->name] = &result;
  }

  void fill(Table& tasks, Table& groups) {
    for (const auto& [name, group] : groups_)
      if (!children_.contains(name)) visit(name, 0, tasks, groups);
    for (const TaskResult& result : evaluation_.tasks)
      if (!children_.contains(result.task->name)) visit(result.task->name, 0, tasks, groups);
  }

 private:
  void visit(const std::string& name, size_t depth, Table& tasks, Table& groups) {
    const std::string indent = depth == 0 ? "" : std::string(depth, ' ') + "- ";
    if (const auto task = tasks_.find(name); task != tasks_.end()) {
      const TaskResult& result = *task->second;
      return tasks.add(indent + result.task->alias, shown_version(result.task->version), std::to_string(result.shots),
                       result.metrics);
    }
    const auto group = groups_.find(name);
    if (group == groups_.end()) return;
    const TaskGroup& own = group->second->group;
    const std::string shots = group->second->shots ? std::to_string(*group->second->shots) : "";
    for (Table* table : {&tasks, &groups})
      if (table == &tasks || !group->second->metrics.empty())
        table->add(indent + own.alias, shown_version(own.version), shots, group->second->metrics);
    const std::set<std::string> sorted(own.children.begin(), own.children.end());
    for (const std::string& child : sorted) visit(child, depth + 1, tasks, groups);
  }

  const Evaluation& evaluation_;
  std::map<std::string, const GroupResult*> groups_;
  std::map<std::string, const TaskResult*> tasks_;
  std::set<std::string> children_;
};

}  // namespace

std::string results_table(const Evaluation& evaluation) {
  Table tasks("Tasks"), groups("Groups");
  Walk(evaluation).fill(tasks, groups);
  return groups.empty() ? tasks.markdown() : tasks.markdown() + "\n" + groups.markdown();
}

}  // namespace liger
