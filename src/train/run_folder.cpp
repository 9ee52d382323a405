#include "train/run_folder.h"

#include <algorithm>
#include <charconv>

#include "io/tfevents.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/log.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "ckpt-";

fs::path as_folder(const std::string& dir) {
  const fs::path full = fs::absolute(dir).lexically_normal();
  return full.has_filename() ? full : full.parent_path();
}

/// Without a checkpoint or a result, metrics are what a run that failed at its start has left.
std::vector<fs::path> worth_keeping(const std::vector<fs::path>& paths) {
  const bool has_weights =
      std::any_of(paths.begin(), paths.end(), [](const fs::path& p) { return fs::is_directory(p); });
  return has_weights ? paths : std::vector<fs::path>();
}

/// N of "ckpt-N"; nothing for other names.
std::optional<int64_t> checkpoint_step(const std::string& name) {
  if (!name.starts_with(kPrefix)) return {};
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (parsed.ec != std::errc() || parsed.ptr != end || step < 0) return {};
  return step;
}

}  // namespace

RunFolder::RunFolder(const SaveOptions& options)
    : options_(options), dir_(as_folder(options.dir)), parents_(dir_), lock_(dir_) {
  if (fs::exists(dir_) && !fs::is_directory(dir_)) {
    fail(ErrorCode::kLocked, dir_.string(), ": save.dir exists and is not a folder");
  }
  if (options.resume == "auto") {
    checkpoint_ = newest_good();
  } else if (options.resume != "never") {
    checkpoint_ = as_folder(options.resume);
    LIGER_CHECK_USAGE(fs::is_directory(checkpoint_), "save.resume: expected auto, never or a checkpoint folder, got '",
                      options.resume, "'");
    verify_manifest(checkpoint_);
  }
  // What auto leaves behind are broken checkpoints only.
  const bool may_remove = options.overwrite || (options.resume == "auto" && !checkpoint_.empty());
  const std::vector<fs::path> lost = may_remove ? std::vector<fs::path>() : worth_keeping(in_the_way());
  if (!lost.empty()) {
    fail(ErrorCode::kLocked, dir_.string(), ": holds an earlier run (", lost.front().filename().string(),
         ") that would be lost; choose another save.dir, or set save.overwrite to true");
  }
}

fs::path RunFolder::newest_good() const {
  for (const Found& found : checkpoints()) {
    try {
      verify_manifest(found.path);
      return found.path;
    } catch (const Error& e) {
      log_warning(cat(e.what(), "; trying the checkpoint before it"));
    }
  }
  return {};
}

bool RunFolder::goes_on_here() const { return !checkpoint_.empty() && checkpoint_.parent_path() == dir_; }

bool RunFolder::has_result() const {
  if (!goes_on_here() || !fs::exists(dir_ / "final")) return false;
  try {
    verify_manifest(dir_ / "final");
    return true;
  } catch (const Error& e) {
    log_warning(cat(e.what(), "; it is written again"));
    return false;
  }
}

void RunFolder::restart_finished() {
  if (!options_.overwrite || options_.resume != "auto") {
    fail(ErrorCode::kLocked, dir_.string(), ": this run is finished (", checkpoint_.filename().string(),
         " is its last update); raise train.epochs or train.max_steps to go on, choose another save.dir, or set "
         "save.overwrite to true");
  }
  checkpoint_.clear();
}

void RunFolder::open() {
  parents_.keep();
  if (fs::exists(dir_)) detail::with_file_errors([&] { detail::recover_all(dir_); });
  for (const fs::path& path : in_the_way()) fs::remove_all(path);
  fs::create_directories(dir_);
}

fs::path RunFolder::checkpoint_path(int64_t step) const { return dir_ / cat(kPrefix, step); }

void RunFolder::prune() const {
  const std::vector<Found> found = checkpoints();
  for (size_t i = static_cast<size_t>(options_.keep); i < found.size(); ++i) fs::remove_all(found[i].path);
}

std::vector<RunFolder::Found> RunFolder::checkpoints() const {
  std::vector<Found> found;
  if (!fs::exists(dir_)) return found;
  for (const auto& entry : fs::directory_iterator(dir_)) {
    const auto step = checkpoint_step(entry.path().filename().string());
    if (step && entry.is_directory()) found.push_back({entry.path(), *step});
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.step > b.step; });
  return found;
}

std::vector<fs::path> RunFolder::in_the_way() const {
  std::vector<fs::path> paths;
  const auto from = goes_on_here() ? checkpoint_step(checkpoint_.filename().string()) : std::nullopt;
  for (const Found& found : checkpoints()) {
    if (!from || found.step > *from) paths.push_back(found.path);
  }
  if (from) return paths;
  for (const char* name : {"final", "metrics.jsonl", "metrics.csv", "samples.jsonl", "loss.svg"}) {
    if (fs::exists(dir_ / name)) paths.push_back(dir_ / name);
  }
  if (!fs::exists(dir_)) return paths;
  for (const auto& entry : fs::directory_iterator(dir_)) {
    if (entry.path().filename().string().starts_with(detail::kTfeventsPrefix)) paths.push_back(entry.path());
  }
  return paths;
}

}  // namespace liger
