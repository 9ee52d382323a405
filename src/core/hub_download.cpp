#include <sys/statvfs.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "core/hub_blob.h"
#include "core/hub_cache.h"
#include "core/hub_client.h"
#include "core/hub_names.h"
#include "core/hub_transfer.h"
#include "io/atomic_directory.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/io/log.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

using detail::Blob;
using detail::CacheEntry;
using detail::Hub;
using detail::HubFile;

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

// model.safetensors or model-00001-of-00004.safetensors: not the same weights once more in the vendor's own form
// (consolidated.safetensors) or another precision.
bool is_weights(const std::string& name) {
  if (name == "model.safetensors") return true;
  constexpr std::string_view kShape = "model-00000-of-00000.safetensors";
  return name.size() == kShape.size() && std::equal(name.begin(), name.end(), kShape.begin(), [](char c, char shape) {
           return shape == '0' ? c >= '0' && c <= '9' : c == shape;
         });
}

bool is_wanted(const std::string& path) {
  static const char* const kNames[] = {"config.json",
                                       "generation_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "chat_template.json",
                                       "chat_template.jinja",
                                       "README.md",
                                       "model.safetensors.index.json",
                                       "adapter/adapter_config.json",
                                       "adapter/adapter_model.safetensors"};
  if (std::find(std::begin(kNames), std::end(kNames), path) != std::end(kNames)) return true;
  if (path.starts_with("additional_chat_templates/") && path.ends_with(".jinja")) return true;
  if (path.find('/') != std::string::npos) return false;
  const std::string big = upper(path);
  if (big.starts_with("LICENSE") || big.starts_with("NOTICE") || big.starts_with("USE_POLICY")) return true;
  const bool tokenizer = path.starts_with("tokenizer") && (path.ends_with(".json") || path.ends_with(".model"));
  return tokenizer || is_weights(path);
}

// What of a repository is fetched: the small files first, which say soonest whether the rest is worth it.
std::vector<HubFile> wanted_files(const Hub& hub, const std::string& commit) {
  const std::vector<HubFile> all = hub.files(commit);
  std::vector<HubFile> wanted;
  std::string pickled, other;
  for (const HubFile& file : all) {
    if (is_wanted(file.path)) wanted.push_back(file);
    const std::string kind = fs::path(file.path).extension().string();
    if (kind == ".bin" || kind == ".pt" || kind == ".pth") pickled = file.path;
    if (kind == ".gguf" || kind == ".safetensors") other = file.path;
  }
  const auto has = [&](const auto& test) {
    return std::any_of(wanted.begin(), wanted.end(), [&](const HubFile& file) { return test(file.path); });
  };
  LIGER_CHECK(has([](const std::string& path) { return path == "config.json"; }), hub.repository,
              ": has no config.json, so it is not a model in Hugging Face's form",
              other.empty() ? "" : cat(" (but ", other, "); name the repository that it was made from"));
  LIGER_CHECK(has(is_weights), hub.repository, ": expected weights as model.safetensors or its parts, found ",
              !other.empty()     ? other
              : !pickled.empty() ? cat("only pickled ones (", pickled,
                                       "), which can run code and are not read; many repositories have a branch or a "
                                       "copy with safetensors, and transformers' save_pretrained writes them")
                                 : "none");
  std::stable_sort(wanted.begin(), wanted.end(),
                   [](const HubFile& a, const HubFile& b) { return is_weights(a.path) < is_weights(b.path); });
  return wanted;
}

// The blob by its size: its name is a hash that was checked when it got it.
bool is_there(const CacheEntry& entry, const HubFile& file) {
  std::error_code error;
  return fs::is_regular_file(entry.blob(file), error) && fs::file_size(entry.blob(file), error) == file.size && !error;
}

uint64_t kept_bytes(const CacheEntry& entry, const HubFile& file) {
  std::error_code error;
  const uintmax_t size = fs::file_size(entry.blob(file).string() + ".incomplete", error);
  return error ? 0 : std::min<uint64_t>(size, file.size);
}

void check_space(const CacheEntry& entry, const Hub& hub, uint64_t bytes) {
  struct statvfs disk{};
  if (::statvfs(entry.cache.c_str(), &disk) != 0) return;  // the write says it then
  const uint64_t free = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  const auto gigabytes = [](uint64_t n) { return cat(static_cast<double>(n / 10000000) / 100, " GB"); };
  if (bytes > free)
    fail(ErrorCode::kIo, entry.cache.string(), ": too little space: ", hub.repository, " needs ", gigabytes(bytes),
         " more, and ", gigabytes(free), " are free; set HF_HUB_CACHE to a folder on another disk");
}

// Other writers of the same entry are waited for: the processes of a distributed run all ask for the same model.
std::unique_ptr<detail::FolderLock> lock(const CacheEntry& entry) {
  const fs::path name = entry.cache / ".locks" / entry.folder.filename();
  detail::make_folders(name.parent_path());
  for (bool told = false;; told = true) {
    try {
      return std::make_unique<detail::FolderLock>(name);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kLocked) throw;
      if (!told) log_info(cat(entry.folder.filename().string(), ": another process is fetching it; waiting for that"));
    }
    throw_if_interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

void fetch_blobs(const Hub& hub, const CacheEntry& entry, const std::string& commit,
                 const std::vector<HubFile>& files) {
  std::vector<std::unique_ptr<Blob>> blobs;
  std::vector<detail::Transfer> transfers;
  uint64_t total = 0, before = 0;
  for (const HubFile& file : files) {
    const auto same = [&](const HubFile& other) { return other.hash == file.hash; };
    const bool twice = &*std::find_if(files.begin(), files.end(), same) != &file;
    if (twice || is_there(entry, file)) continue;
    total += file.size;
    before += kept_bytes(entry, file);
    Blob& blob = *blobs.emplace_back(std::make_unique<Blob>(entry, file));
    detail::Transfer transfer{
        .what = file.path, .url = hub.file_url(commit, file.path), .size = file.size, .etag = file.hash};
    transfer.open = [&blob] { return blob.open(); };
    transfer.write = [&blob](std::string_view bytes) { blob.write(bytes); };
    transfer.restart = [&blob] { blob.restart(); };
    transfer.done = [&blob](const detail::HttpHead&) { return blob.finish(); };
    transfers.push_back(std::move(transfer));
  }
  if (transfers.empty()) return;
  check_space(entry, hub, total - before);
  constexpr uint64_t kMegabyte = 1000000;
  Progress progress(cat("fetching ", hub.repository, " (MB)"),
                    static_cast<int64_t>((total + kMegabyte - 1) / kMegabyte), 10,
                    static_cast<int64_t>(before / kMegabyte));
  const auto held = [&] {
    // Those not begun hold what an earlier run kept; counted once they are opened.
    uint64_t bytes = 0;
    for (const auto& blob : blobs) bytes += blob->held();
    return static_cast<int64_t>(bytes / kMegabyte);
  };
  run_transfers(hub, std::move(transfers), static_cast<size_t>(std::max(hub.options.connections, 1)), [&] {
    progress.update(std::max(held(), static_cast<int64_t>(before / kMegabyte)));
    throw_if_interrupted();
  });
  progress.update(static_cast<int64_t>((total + kMegabyte - 1) / kMegabyte));
  progress.finish();
}

void check_revision(const std::string& revision) {
  bool plain = !revision.empty();
  for (size_t begin = 0, end = 0; plain && end != std::string::npos; begin = end + 1) {
    end = revision.find('/', begin);
    plain =
        detail::is_plain_name(std::string_view(revision).substr(begin, end == std::string::npos ? end : end - begin));
  }
  LIGER_CHECK_USAGE(plain, "revision '", revision, "': expected a branch, a tag or a commit");
}

CacheEntry entry_of(const std::string& repository, const DownloadOptions& options) {
  return {options.cache.empty() ? detail::hub_cache() : options.cache, repository};
}

// A model in the cache that lacks nothing; "" otherwise.
fs::path whole_snapshot(const CacheEntry& entry) {
  const fs::path snapshot = entry.snapshot();
  std::error_code error;
  if (snapshot.empty() || !fs::is_directory(snapshot, error)) return "";
  detail::check_links(snapshot);
  return detail::missing_from(snapshot).empty() ? snapshot : fs::path();
}

void tag_cache(const fs::path& cache) {
  std::error_code error;
  const fs::path tag = cache / "CACHEDIR.TAG";
  // So that backups leave the folder out: bford.info/cachedir.
  if (!fs::exists(tag, error)) write_text_atomic(tag, "Signature: 8a477f597d28d172789f06886806bc55\n");
}

fs::path download(const Hub& hub, const CacheEntry& entry, const std::string& revision) {
  const std::string commit = hub.commit_of(revision);
  const std::vector<HubFile> files = wanted_files(hub, commit);
  tag_cache(entry.cache);
  fetch_blobs(hub, entry, commit, files);
  const fs::path snapshot = publish(entry, revision, commit, files);
  log_info(cat(hub.repository, ": ", snapshot.string()));
  return snapshot;
}

bool keeps_something(const CacheEntry& entry) {
  std::error_code error;
  return fs::exists(entry.folder / "blobs", error) && !fs::is_empty(entry.folder / "blobs", error);
}

// `only_if_missing`: what another process has fetched meanwhile is not looked up again.
fs::path download(const std::string& name, const std::string& revision, const DownloadOptions& options,
                  bool only_if_missing) {
  check_revision(revision);
  const Hub hub(detail::repository_named(name), options);
  const CacheEntry entry = entry_of(hub.repository, options);
  try {
    const auto locked = lock(entry);
    if (only_if_missing) {
      if (const fs::path snapshot = whole_snapshot(entry); !snapshot.empty()) return snapshot;
    }
    return download(hub, entry, revision);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kCancelled || !keeps_something(entry)) throw;
    fail(ErrorCode::kInterrupted, hub.repository,
         ": interrupted; what has come is kept, and the same command goes on from there");
  }
}

}  // namespace

fs::path download_model(const std::string& name, const std::string& revision, const DownloadOptions& options) {
  return download(name, revision, options, false);
}

fs::path fetch_model(const std::string& name_or_dir, const DownloadOptions& options) {
  std::error_code error;
  if (name_or_dir.empty() || fs::exists(name_or_dir, error)) return resolve_model(name_or_dir);
  const CacheEntry entry = entry_of(detail::repository_named(name_or_dir), options);
  const fs::path snapshot = whole_snapshot(entry);
  return snapshot.empty() ? download(name_or_dir, "main", options, true) : snapshot;
}

}  // namespace liger
