#include "liger/core/hub.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <sstream>
#include <string_view>

#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

struct KnownModel {
  std::string_view name;
  std::string_view repository;
};

constexpr KnownModel kKnownModels[] = {
    {"llama3-8b", "meta-llama/Meta-Llama-3-8B"},
    {"llama3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct"},
    {"llama3-70b", "meta-llama/Meta-Llama-3-70B"},
    {"llama3.1-8b", "meta-llama/Llama-3.1-8B"},
    {"llama3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"},
    {"llama3.1-70b", "meta-llama/Llama-3.1-70B"},
    {"llama3.2-1b", "meta-llama/Llama-3.2-1B"},
    {"llama3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct"},
    {"llama3.2-3b", "meta-llama/Llama-3.2-3B"},
    {"llama3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct"},
    {"llama2-7b", "meta-llama/Llama-2-7b-hf"},
    {"llama2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"},
    {"llama2-13b", "meta-llama/Llama-2-13b-hf"},
    {"gemma-2b", "google/gemma-2b"},
    {"gemma-2b-it", "google/gemma-2b-it"},
    {"gemma-7b", "google/gemma-7b"},
    {"gemma-7b-it", "google/gemma-7b-it"},
    {"tinyllama", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"},
    {"tinyllama-chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"},
    {"smollm2-135m", "HuggingFaceTB/SmolLM2-135M"},
    {"smollm2-360m", "HuggingFaceTB/SmolLM2-360M"},
    {"smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B"},
};

std::string known_names() {
  std::string names;
  for (const KnownModel& model : kKnownModels) names += cat(names.empty() ? "" : ", ", model.name);
  return names;
}

// Meta's and Google's repositories carry the same weights a second time in a form nothing here reads.
std::string download_command(const std::string& repository) {
  const std::string command = "hf download " + repository;
  if (repository.starts_with("meta-llama/")) return command + " --exclude 'original/*'";
  if (repository.starts_with("google/")) return command + " --exclude '*.gguf'";
  return command;
}

// One part of a repository's id, or a commit: nothing that could lead out of the cache folder.
bool is_plain_name(std::string_view text) {
  return !text.empty() && text.front() != '.' && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

std::string repository_of(const std::string& name) {
  std::string lower = name;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const KnownModel& model : kKnownModels) {
    if (lower == model.name) return std::string(model.repository);
  }
  const size_t slash = name.find('/');
  const bool is_id = slash != std::string::npos && is_plain_name(std::string_view(name).substr(0, slash)) &&
                     is_plain_name(std::string_view(name).substr(slash + 1));
  LIGER_CHECK_USAGE(is_id, "model '", name,
                    "': no such folder, no Hugging Face id (org/name) and no known name; known are ", known_names());
  return name;
}

fs::path cache_folder() {
  const auto variable = [](const char* name) -> fs::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const fs::path cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const fs::path cache = variable("HUGGINGFACE_HUB_CACHE"); !cache.empty()) return cache;
  if (const fs::path home = variable("HF_HOME"); !home.empty()) return home / "hub";
  if (const fs::path xdg = variable("XDG_CACHE_HOME"); !xdg.empty()) return xdg / "huggingface/hub";
  return variable("HOME") / ".cache/huggingface/hub";
}

// The commit that `hf download` fetched last, or the only one there is.
fs::path snapshot_of(const fs::path& entry) {
  std::error_code error;
  if (fs::is_regular_file(entry / "refs/main", error)) {
    std::string commit = read_text(entry / "refs/main", 1024);
    while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0) commit.pop_back();
    LIGER_CHECK(is_plain_name(commit), (entry / "refs/main").string(), ": expected the name of a commit");
    return entry / "snapshots" / commit;
  }
  std::vector<fs::path> snapshots;
  for (const fs::directory_entry& snapshot : fs::directory_iterator(entry / "snapshots", error)) {
    snapshots.push_back(snapshot.path());
  }
  return snapshots.size() == 1 ? snapshots.front() : fs::path();
}

}  // namespace

fs::path resolve_model(const std::string& name_or_dir) {
  LIGER_CHECK_USAGE(!name_or_dir.empty(), "model: expected a folder or a name, got nothing");
  std::error_code error;
  if (fs::is_directory(name_or_dir, error)) return name_or_dir;
  LIGER_CHECK_USAGE(!fs::exists(name_or_dir, error), "model '", name_or_dir,
                    "': expected a Hugging Face folder, got a file; name the folder that holds its config.json");
  const std::string repository = repository_of(name_or_dir);
  std::string folder = "models--" + repository;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path entry = cache_folder() / folder;
  const fs::path snapshot = snapshot_of(entry);
  LIGER_CHECK_USAGE(!snapshot.empty() && fs::is_directory(snapshot, error), "model '", name_or_dir, "' (", repository,
                    ") is not in the local cache: looked in ", entry.string(),
                    "; fetch it with: ", download_command(repository));
  LIGER_CHECK_USAGE(
      fs::exists(snapshot / "config.json", error), "model '", name_or_dir, "': ", snapshot.string(),
      " has no config.json, so its download is not complete; finish it with: ", download_command(repository));
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
