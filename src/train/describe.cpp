#include "train/describe.h"

#include <cstdio>

#include "liger/error.h"

namespace liger {
namespace {

std::string describe(const std::string& name, const Dataset& data) {
  const DatasetCounts& c = data.counts();
  std::string line = cat(name, ": ", c.rows, " rows as ", data.size(), " samples, ", c.tokens, " tokens, ", c.targets,
                         " of them to learn");
  const auto add = [&](int64_t count, const char* what) {
    if (count > 0) line += cat(", ", count, what);
  };
  add(c.truncated, " rows truncated");
  add(c.dropped, " rows dropped as too long");
  add(c.split, " rows split as too long");
  add(c.samples_without_target, " samples with nothing to learn left out");
  return line;
}

}  // namespace

std::vector<std::string> describe(const TrainingSetup& setup) {
  const auto [all, trained] = setup.parameter_counts();
  char share[32];
  std::snprintf(share, sizeof share, "%.3f%%", 100.0 * static_cast<double>(trained) / static_cast<double>(all));
  std::vector<std::string> lines = {cat("training ", trained, " of ", all, " parameters (", share, ")",
                                        setup.options.lora ? "" : ", all weights held in float32 or wider"),
                                    describe("training data", *setup.train)};
  if (setup.validation) lines.push_back(describe("validation data", *setup.validation));
  lines.push_back(cat(setup.total_steps, " updates, ", setup.steps_per_epoch, " an epoch"));
  return lines;
}

std::string describe_rows(const Dataset& data, std::span<const int64_t> samples) {
  constexpr int kShown = 4;
  std::string text;
  int64_t last = -1, count = 0;
  for (const int64_t sample : samples) {
    for (const Piece& piece : data.pieces(sample)) {
      if (piece.row == last) continue;
      last = piece.row;
      if (count++ < kShown) text += (text.empty() ? "" : ", ") + data.corpus().where(piece.row);
    }
  }
  return count > kShown ? cat(text, " and ", count - kShown, " more") : text;
}

}  // namespace liger
