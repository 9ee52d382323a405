#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/hub_client.h"

// The local cache as huggingface_hub lays it out:
//   CACHE/models--ORG--NAME/blobs/HASH              the files; HASH.incomplete while one is fetched
//                           snapshots/COMMIT/PATH   links to ../../blobs/HASH
//                           refs/main               the commit of a branch or tag
//   CACHE/.locks/models--ORG--NAME/HASH.lock        held by who writes the blob
//   CACHE/blobs/xx/HASH                             where blobs of several models are one file, and linked to

namespace liger::detail {

/// A variable of the environment; "" if it is not set.
std::string environment(const char* name);
/// HF_HOME, else XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface.
std::filesystem::path hugging_face_home();
/// HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else `hub` in the former.
std::filesystem::path hub_cache();

/// Creates a folder and those above it. Throws Error(kIo).
void make_folders(const std::filesystem::path& folder);

/// What the cache holds of a repository.
struct CacheEntry {
  std::filesystem::path cache, folder;  ///< the folder may not be there
  CacheEntry(const std::filesystem::path& cache, const std::string& repository);

  /// The snapshot that refs/main names, or the only one there is; "" without one.
  /// Throws Error(kBadInput) if what should name a commit does not.
  std::filesystem::path snapshot() const;
  std::filesystem::path blob(const HubFile& file) const { return folder / "blobs" / file.hash; }
};

/// The first thing a model cannot be read without that a snapshot lacks; "" if it is whole.
std::string missing_from(const std::filesystem::path& snapshot);

/// Throws Error(kBadInput) if a link of a snapshot leads anywhere but into the blobs of its entry.
void check_links(const std::filesystem::path& snapshot);

/// Makes the snapshot of files whose blobs are there, and lets `revision` name it. A new snapshot appears at once, with
/// all its files; one that is there, as another program left it, is filled up.
/// Throws Error(kBadInput) if a model cannot be read from them.
std::filesystem::path publish(const CacheEntry& entry, const std::string& revision, const std::string& commit,
                              const std::vector<HubFile>& files);

}  // namespace liger::detail
