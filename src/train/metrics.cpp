#include "train/metrics.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string_view>

#include "io/tfevents.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "liger/io/process.h"

namespace liger {
namespace {

constexpr const char* kJsonl = "metrics.jsonl";
constexpr const char* kCsv = "metrics.csv";
constexpr const char* kSamples = "samples.jsonl";

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

OrderedJson to_json(const MetricsRow& row) {
  const auto number = [](const std::optional<double>& x) { return x ? OrderedJson(*x) : OrderedJson(); };
  // Few digits for what is measured or only read by people.
  const auto rounded = [](double x, double places) { return std::round(x * places) / places; };
  const double share =
      row.total_steps > 0 ? static_cast<double>(row.current_steps) / static_cast<double>(row.total_steps) : 0;
  OrderedJson out;
  out["current_steps"] = row.current_steps;
  out["total_steps"] = row.total_steps;
  out["loss"] = number(row.loss);
  out["eval_loss"] = number(row.eval_loss);
  out["lr"] = row.lr;
  out["epoch"] = row.epoch;
  out["percentage"] = rounded(100.0 * share, 100);
  out["elapsed_time"] = format_duration(row.elapsed_seconds);
  out["remaining_time"] = row.remaining_seconds ? OrderedJson(format_duration(*row.remaining_seconds)) : OrderedJson();
  out["grad_norm"] = number(row.grad_norm);
  out["tokens"] = row.tokens;
  out["tokens_per_second"] = row.tokens_per_second ? OrderedJson(rounded(*row.tokens_per_second, 10)) : OrderedJson();
  out["peak_memory_gb"] = rounded(static_cast<double>(peak_memory_bytes()) / 1e9, 1000);
  out["time"] = rounded(unix_time(), 1000);
  return out;
}

std::string csv_header() {
  std::string line;
  const OrderedJson row = to_json(MetricsRow());
  for (const auto& item : row.items()) line += (line.empty() ? "" : ",") + item.key();
  return line + "\n";
}

std::string csv_line(const OrderedJson& row) {
  std::string line;
  for (const auto& item : row.items()) {
    const OrderedJson& value = item.value();
    if (!line.empty()) line += ',';
    if (!value.is_null()) line += value.is_string() ? value.get<std::string>() : value.dump();
  }
  return line + "\n";
}

std::string tfevents_record(const MetricsRow& row) {
  std::vector<detail::TaggedScalar> scalars;
  const auto add = [&](const char* tag, const std::optional<double>& value) {
    if (value) scalars.push_back({tag, *value});
  };
  add("train/loss", row.loss);
  add("train/grad_norm", row.grad_norm);
  if (row.loss) add("train/lr", row.lr);  // a validation's row would be a second point at its step
  add("eval/loss", row.eval_loss);
  add("perf/tokens_per_second", row.tokens_per_second);
  return detail::tfevents_scalars_record(unix_time(), row.current_steps, scalars);
}

/// The event file that a run goes on with: the one of its checkpoint if that is still there. A second file beside it
/// would be drawn as a second curve from the checkpoint on.
std::string event_file(const std::filesystem::path& dir, const Metrics::Sizes& sizes) {
  for (const auto& [name, size] : sizes) {
    const bool is_name = std::filesystem::path(name).filename() == name;  // it comes from a file
    if (is_name && name.starts_with(detail::kTfeventsPrefix) && std::filesystem::exists(dir / name)) return name;
  }
  return detail::tfevents_name(unix_time());
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  char text[48];
  std::snprintf(text, sizeof text, "%lld:%02d:%02d", static_cast<long long>(whole / 3600),
                static_cast<int>(whole / 60 % 60), static_cast<int>(whole % 60));
  return text;
}

/// A file that is appended to and knows how long it is.
class Metrics::File {
 public:
  File(std::filesystem::path path, int64_t size) : path_(std::move(path)), size_(size) {
    descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail_with_errno("cannot be opened");
    struct stat status{};
    if (fstat(descriptor_, &status) != 0) fail_with_errno("cannot be read");
    size_ = std::min<int64_t>(size_, status.st_size);  // shorter if somebody removed it: the rows to come still fit
    if (ftruncate(descriptor_, size_) != 0) fail_with_errno("cannot be cut back");
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = pwrite(descriptor_, bytes.data(), bytes.size(), size_);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_with_errno("cannot be written");
      size_ += n;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
  }
  void sync() {
    if (fsync(descriptor_) != 0) fail_with_errno("cannot be written");
  }
  int64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail_with_errno(const char* what) const {
    fail(ErrorCode::kIo, path_.string(), ": ", what, ": ", std::strerror(errno));
  }
  std::filesystem::path path_;
  int64_t size_;
  int descriptor_ = -1;
};

Metrics::Metrics(std::filesystem::path dir, const LogOptions& options, bool samples, const Sizes& sizes)
    : dir_(std::move(dir)), options_(options) {
  const auto open = [&](const std::string& name) {
    const auto found = sizes.find(name);
    return std::make_unique<File>(dir_ / name, found == sizes.end() ? 0 : found->second);
  };
  if (options_.jsonl) jsonl_ = open(kJsonl);
  if (options_.csv) csv_ = open(kCsv);
  if (csv_ && csv_->size() == 0) csv_->append(csv_header());
  if (options_.tensorboard) events_ = open(event_file(dir_, sizes));
  if (events_ && events_->size() == 0) events_->append(detail::tfevents_version_record(unix_time()));
  if (samples) samples_ = open(kSamples);
  if (jsonl_ && options_.svg) read_curves();
}

Metrics::~Metrics() = default;

void Metrics::read_curves() {
  std::istringstream lines(read_text(jsonl_->path()));
  for (std::string line; std::getline(lines, line);) {
    const Json row = parse_json(line, jsonl_->path().string());
    const auto step = row.value("current_steps", 0.0);
    if (row.contains("loss") && row["loss"].is_number()) loss_.push_back({step, row["loss"]});
    if (row.contains("eval_loss") && row["eval_loss"].is_number()) eval_loss_.push_back({step, row["eval_loss"]});
  }
}

void Metrics::add(const MetricsRow& row) {
  const OrderedJson json = to_json(row);
  if (jsonl_) jsonl_->append(json.dump() + "\n");
  if (csv_) csv_->append(csv_line(json));
  if (events_) events_->append(tfevents_record(row));
  const auto step = static_cast<double>(row.current_steps);
  if (row.loss) loss_.push_back({step, *row.loss});
  if (row.eval_loss) eval_loss_.push_back({step, *row.eval_loss});
}

void Metrics::add(int64_t step, const std::vector<TextSample>& samples) {
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto& [prompt, text] = samples[i];
    const OrderedJson row = {{"step", step}, {"prompt", prompt}, {"text", text}};
    samples_->append(row.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
    if (!events_) continue;
    events_->append(detail::tfevents_text_record(unix_time(), step, cat("sample/", i), prompt + text));
  }
}

void Metrics::sync() {
  if (jsonl_) jsonl_->sync();
  if (csv_) csv_->sync();
  if (events_) events_->sync();
  if (samples_) samples_->sync();
  if (options_.svg) write_text_atomic(dir_ / "loss.svg", loss_svg(loss_, eval_loss_));
}

Metrics::Sizes Metrics::sizes() const {
  Sizes sizes;
  for (const File* file : {jsonl_.get(), csv_.get(), events_.get(), samples_.get()}) {
    if (file != nullptr) sizes[file->path().filename().string()] = file->size();
  }
  return sizes;
}

}  // namespace liger
