#include "core/hub_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>

#include "core/hub_names.h"
#include "io/posix.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "liger/io/safetensors.h"

namespace liger::detail {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

// A home folder written as a shell would take it.
fs::path expanded(const std::string& path) {
  return path == "~" || path.starts_with("~/") ? fs::path(environment("HOME") + path.substr(1)) : fs::path(path);
}

std::string missing_shard(const fs::path& snapshot) {
  const Json index = read_json(snapshot / kIndex, size_t{256} << 20);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object()) return "";  // who reads it says what is wrong
  std::error_code error;
  for (const auto& [_, shard] : map->items()) {
    if (shard.is_string() && !fs::exists(snapshot / shard.get<std::string>(), error))
      return printable(shard.get<std::string>());
  }
  return "";
}

// Weights of any kind: whether they can be read is for who reads them to say.
bool has_weights(const fs::path& snapshot) {
  std::error_code error;
  for (const fs::directory_entry& file : fs::directory_iterator(snapshot, error)) {
    const std::string kind = file.path().extension().string();
    if (kind == ".safetensors" || kind == ".bin" || kind == ".pt" || kind == ".pth" || kind == ".gguf")
      return fs::exists(file.path(), error);
  }
  return false;
}

void place_link(const fs::path& target, const fs::path& link) {
  fs::path temporary = link;
  temporary += cat(".tmp-", ::getpid());
  std::error_code error;
  fs::remove(temporary, error);
  if (::symlink(target.c_str(), temporary.c_str()) != 0) fail_errno(link, "create");
  if (::rename(temporary.c_str(), link.c_str()) != 0) fail_errno(link, "create");
}

void link_files(const fs::path& snapshot, std::vector<HubFile> files) {
  // A snapshot without its configuration is none: it is the last.
  std::stable_partition(files.begin(), files.end(), [](const HubFile& file) { return file.path != "config.json"; });
  std::set<fs::path> folders;
  for (const HubFile& file : files) {
    const fs::path link = snapshot / file.path;
    make_folders(*folders.insert(link.parent_path()).first);
    fs::path target = "../..";
    for (auto levels = std::count(file.path.begin(), file.path.end(), '/'); levels > 0; --levels) target /= "..";
    target = target / "blobs" / file.hash;
    std::error_code error;
    const bool there = fs::read_symlink(link, error) == target ||
                       (fs::is_regular_file(link, error) && fs::file_size(link, error) == file.size && !error);
    if (!there) place_link(target, link);
  }
  for (const fs::path& folder : folders) sync_folder(folder);
}

// Removed with all that is in it.
struct Staging {
  fs::path folder;
  explicit Staging(fs::path path) : folder(std::move(path)) { clear(); }
  ~Staging() { clear(); }
  void clear() const {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
};

void check_whole(const fs::path& snapshot) {
  const std::string missing = missing_from(snapshot);
  LIGER_CHECK(missing.empty(), snapshot.parent_path().parent_path().filename().string(),
              ": expected a whole model, but the repository lacks ", missing);
}

}  // namespace

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_errno(folder, "create", error.value());
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path hugging_face_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return expanded(home);
  if (const std::string xdg = environment("XDG_CACHE_HOME"); !xdg.empty()) return expanded(xdg) / "huggingface";
  return fs::path(environment("HOME")) / ".cache/huggingface";
}

fs::path hub_cache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string cache = environment(name); !cache.empty()) return expanded(cache);
  }
  return hugging_face_home() / "hub";
}

CacheEntry::CacheEntry(const fs::path& cache, const std::string& repository) : cache(cache) {
  std::string name = "models--" + repository;
  name.replace(name.find('/'), 1, "--");
  folder = cache / name;
}

fs::path CacheEntry::snapshot() const {
  std::error_code error;
  const fs::path ref = folder / "refs/main";
  if (fs::is_regular_file(ref, error)) {
    std::string commit = read_text(ref, 1024);
    while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0) commit.pop_back();
    LIGER_CHECK(is_plain_name(commit), ref.string(), ": expected the name of a commit");
    return folder / "snapshots" / commit;
  }
  std::vector<fs::path> snapshots;
  for (const fs::directory_entry& snapshot : fs::directory_iterator(folder / "snapshots", error))
    snapshots.push_back(snapshot.path());
  return snapshots.size() == 1 ? snapshots.front() : fs::path();
}

std::string missing_from(const fs::path& snapshot) {
  std::error_code error;
  if (!fs::exists(snapshot / "config.json", error)) return "config.json";
  if (fs::exists(fs::symlink_status(snapshot / kIndex, error)) && !fs::exists(snapshot / "model.safetensors", error)) {
    if (!fs::exists(snapshot / kIndex, error)) return kIndex;
    return missing_shard(snapshot);
  }
  return has_weights(snapshot) ? "" : "its weights";
}

void check_links(const fs::path& snapshot) {
  std::error_code error;
  LIGER_CHECK(!fs::is_symlink(snapshot, error), snapshot.string(),
              ": is a symbolic link; expected a folder of links into ", snapshot.parent_path().parent_path().string(),
              "/blobs");
  with_file_errors([&] {
    for (const fs::directory_entry& file : fs::recursive_directory_iterator(snapshot)) {
      if (file.is_symlink() && fs::exists(file.path(), error))
        file_inside(snapshot, file.path().lexically_relative(snapshot).string());
    }
  });
}

fs::path publish(const CacheEntry& entry, const std::string& revision, const std::string& commit,
                 const std::vector<HubFile>& files) {
  const fs::path snapshot = entry.folder / "snapshots" / commit;
  // Not among the snapshots before it is whole, as a single one counts even if no ref names it; as deep as there, so
  // that its links mean the same.
  const Staging staging(entry.folder / ".staged");
  std::error_code error;
  if (fs::exists(fs::symlink_status(snapshot, error))) {
    check_links(snapshot);
    link_files(snapshot, files);
    check_whole(snapshot);
  } else {
    const fs::path staged = staging.folder / commit;
    make_folders(staged);
    make_folders(snapshot.parent_path());
    link_files(staged, files);
    check_whole(staged);
    if (::rename(staged.c_str(), snapshot.c_str()) != 0) fail_errno(snapshot, "create");
    sync_folder(snapshot.parent_path());
    sync_folder(entry.folder);
  }
  const fs::path ref = entry.folder / "refs" / revision;
  if (revision == commit || (fs::is_regular_file(ref, error) && read_text(ref, 1024) == commit)) return snapshot;
  make_folders(ref.parent_path());
  write_text_atomic(ref, commit);
  sync_folder(entry.folder);
  return snapshot;
}

}  // namespace liger::detail
