#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "liger/io/files.h"
#include "liger/io/json.h"
#include "tfevents_testing.h"

// The files of a training run without what depends on the clock: the same of two runs that did the same.

namespace liger::test {

inline const std::set<std::string> kClockColumns = {"elapsed_time", "remaining_time", "tokens_per_second",
                                                    "peak_memory_gb", "time"};

/// Rows of metrics.jsonl.
inline std::vector<Json> metrics_without_clock(const std::filesystem::path& run) {
  std::vector<Json> rows;
  std::istringstream lines(read_text(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    Json row = parse_json(line, "metrics.jsonl");
    for (const std::string& key : kClockColumns) row.erase(key);
    rows.push_back(row);
  }
  return rows;
}

/// Cells of metrics.csv, line by line.
inline std::vector<std::vector<std::string>> csv_without_clock(const std::filesystem::path& run) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> header;
  std::istringstream lines(read_text(run / "metrics.csv"));
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> cells(1), kept;
    for (const char c : line) c == ',' ? (void)cells.emplace_back() : cells.back().push_back(c);
    if (header.empty()) header = cells;
    EXPECT_EQ(cells.size(), header.size()) << line;
    for (size_t i = 0; i < std::min(cells.size(), header.size()); ++i) {
      if (!kClockColumns.contains(header[i])) kept.push_back(cells[i]);
    }
    rows.push_back(kept);
  }
  return rows;
}

inline std::filesystem::path event_file(const std::filesystem::path& run) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(run)) {
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) found.push_back(entry.path());
  }
  EXPECT_EQ(found.size(), 1u) << "two files are two curves";
  return found.at(0);
}

/// What TensorBoard draws, by tag.
using Curves = std::map<std::string, std::vector<std::pair<int64_t, float>>>;
inline Curves curves_without_clock(const std::filesystem::path& run) {
  Curves points;
  for (const TfEvent& event : read_tfevents(read_text(event_file(run)))) {
    for (const auto& [tag, value] : event.scalars) points[tag].push_back({event.step, value});
  }
  EXPECT_EQ(points.erase("perf/tokens_per_second"), 1u);
  return points;
}

}  // namespace liger::test
