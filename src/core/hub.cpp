#include "liger/core/hub.h"

#include <algorithm>
#include <sstream>
#include <string_view>

#include "core/hub_cache.h"
#include "core/hub_names.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

// Meta's and Google's repositories carry the same weights a second time in a form nothing here reads.
std::string download_command(const std::string& repository) {
  const std::string command = "hf download " + repository;
  if (repository.starts_with("meta-llama/")) return command + " --exclude 'original/*'";
  if (repository.starts_with("google/")) return command + " --exclude '*.gguf'";
  return command;
}

}  // namespace

fs::path resolve_model(const std::string& name_or_dir) {
  LIGER_CHECK_USAGE(!name_or_dir.empty(), "model: expected a folder or a name, got nothing");
  std::error_code error;
  if (fs::is_directory(name_or_dir, error)) return name_or_dir;
  LIGER_CHECK_USAGE(!fs::exists(name_or_dir, error), "model '", name_or_dir,
                    "': expected a Hugging Face folder, got a file; name the folder that holds its config.json");
  const std::string repository = detail::repository_named(name_or_dir);
  const detail::CacheEntry entry(detail::hub_cache(), repository);
  const fs::path snapshot = entry.snapshot();
  LIGER_CHECK_USAGE(!snapshot.empty() && fs::is_directory(snapshot, error), "model '", name_or_dir, "' (", repository,
                    ") is not in the local cache: looked in ", entry.folder.string(),
                    "; add --download to fetch it, or use: ", download_command(repository));
  detail::check_links(snapshot);
  const std::string missing = detail::missing_from(snapshot);
  LIGER_CHECK_USAGE(
      missing.empty(), "model '", name_or_dir, "': ", snapshot.string(), " lacks ", missing,
      ", so its download is not complete; add --download to finish it, or use: ", download_command(repository));
  return snapshot;
}

std::string repository_of_folder(const fs::path& dir) {
  // .../models--org--name/snapshots/COMMIT
  const fs::path full = fs::absolute(dir / "").lexically_normal().parent_path();
  const fs::path snapshots = full.parent_path();
  const std::string entry = snapshots.parent_path().filename().string();
  constexpr std::string_view kPrefix = "models--";
  const size_t separator = entry.find("--", kPrefix.size());
  if (snapshots.filename() != "snapshots" || !entry.starts_with(kPrefix) || separator == std::string::npos) return "";
  return entry.substr(kPrefix.size(), separator - kPrefix.size()) + '/' + entry.substr(separator + 2);
}

std::vector<std::string> license_lines(const fs::path& dir) {
  const fs::path readme = dir / "README.md";
  std::vector<std::string> lines;
  std::error_code error;
  constexpr uintmax_t kLargest = 4 << 20;
  if (!fs::is_regular_file(readme, error) || fs::file_size(readme, error) > kLargest) return lines;
  std::istringstream text(read_text(readme));
  std::string line;
  if (!std::getline(text, line) || !line.starts_with("---")) return lines;
  while (std::getline(text, line) && !line.starts_with("---")) {
    const bool printable =
        std::all_of(line.begin(), line.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
    const bool one_line = line.find(": ") != std::string::npos && line.find_first_of("|>&*{[") == std::string::npos;
    if (line.starts_with("license") && printable && one_line) lines.push_back(line);
  }
  return lines;
}

std::string model_display_name(const fs::path& dir) {
  const std::string repository = repository_of_folder(dir);
  if (!repository.empty()) return repository.substr(repository.find('/') + 1);
  return fs::absolute(dir / "").lexically_normal().parent_path().filename().string();
}

}  // namespace liger
