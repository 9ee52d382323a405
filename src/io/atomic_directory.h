#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/posix.h"

namespace liger::detail {

/// Excludes other writers of `folder` through the hidden sibling `.NAME.lock`, which holds our process id.
/// Throws Error(kLocked) naming the holder.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  bool is_named() const;
  std::filesystem::path file_;
  Fd fd_;
};

/// Creates the missing parents of a folder; removes those it made, if empty, unless kept.
class ParentFolders {
 public:
  explicit ParentFolders(const std::filesystem::path& folder);
  ~ParentFolders();
  ParentFolders(const ParentFolders&) = delete;
  ParentFolders& operator=(const ParentFolders&) = delete;
  void keep();  ///< and make their names durable

 private:
  std::vector<std::filesystem::path> made_;  // outermost first
};

/// Puts folder `from` in place of folder `to`; what was there is at the path returned. In one step where the file
/// system can (`exchange`), else in two, and recover_swap() repairs a kill between them.
std::filesystem::path swap_folders(const std::filesystem::path& from, const std::filesystem::path& to,
                                   bool exchange = true);
/// Under the lock: brings back a folder that a killed swap_folders had set aside, and removes what killed writers left.
void recover_swap(const std::filesystem::path& folder);
/// The same for every folder in `parent` of which a killed writer left something; those being written are left alone.
void recover_all(const std::filesystem::path& parent);

/// Hidden sibling `.NAMEsuffix`.
std::filesystem::path sibling(const std::filesystem::path& folder, const std::string& suffix);

/// Syncs every file and folder below `folder` and writes its MANIFEST.json.
void write_manifest(const std::filesystem::path& folder, uint64_t hash_limit);
inline constexpr const char* kManifest = "MANIFEST.json";
/// A file or link below `folder` that its MANIFEST.json does not list; nothing if there is none.
/// Throws Error(kBadInput) if the manifest is not one of ours.
std::optional<std::filesystem::path> first_unlisted(const std::filesystem::path& folder);

}  // namespace liger::detail
