#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "liger/train/options.h"
#include "train/loss_svg.h"
#include "train/samples.h"

namespace liger {

/// One line of metrics.jsonl and of metrics.csv; what a line does not have is null and empty there. A validation
/// makes a line of its own.
struct MetricsRow {
  int64_t current_steps = 0, total_steps = 0;
  std::optional<double> loss, eval_loss;  ///< nats a token
  double lr = 0, epoch = 0;
  double elapsed_seconds = 0;
  std::optional<double> remaining_seconds;
  std::optional<double> grad_norm;
  int64_t tokens = 0;  ///< read since the run began
  std::optional<double> tokens_per_second;
};

std::string format_duration(double seconds);  ///< "1:07:09"

/// The run's metrics files, which only ever grow: lines, a table, TensorBoard's events, texts; and the picture of the
/// loss.
class Metrics {
 public:
  /// Sizes in bytes of the files a checkpoint belongs to, by name.
  using Sizes = std::map<std::string, int64_t>;

  /// Opens them in `dir`, with `samples` also samples.jsonl; what they hold beyond `sizes` is cut off: it was written
  /// after the checkpoint to go on from.
  Metrics(std::filesystem::path dir, const LogOptions& options, bool samples, const Sizes& sizes);
  ~Metrics();
  /// Throws Error(kIo) naming the file.
  void add(const MetricsRow& row);
  void add(int64_t step, const std::vector<TextSample>& samples);
  /// Draws loss.svg and makes all that was added durable.
  void sync();
  Sizes sizes() const;

 private:
  class File;
  void read_curves();
  std::filesystem::path dir_;
  LogOptions options_;
  std::unique_ptr<File> jsonl_, csv_, events_, samples_;
  Curve loss_, eval_loss_;
};

}  // namespace liger
