#pragma once

#include <string_view>

#include "core/hub_cache.h"
#include "io/posix.h"

namespace liger::detail {

/// A blob under way: what has come lies in blobs/HASH.incomplete, across runs, and becomes blobs/HASH when it is all
/// there and has that hash.
class Blob {
 public:
  Blob(const CacheEntry& entry, const HubFile& file);
  /// Opens what an earlier run has kept, reads it, and returns how much there is. Throws Error(kLocked) if another
  /// program writes this blob.
  uint64_t open();
  void write(std::string_view bytes);
  void restart();
  /// Gives it its name; false, and nothing is left, if the content is not what the hub lists.
  bool finish();
  /// Bytes of it that are there.
  uint64_t held() const { return held_; }

 private:
  std::filesystem::path blob_, incomplete_, lock_file_;
  HubFile file_;
  Fd lock_, fd_;
  Digest digest_;
  uint64_t held_ = 0, synced_ = 0;

  Digest new_digest() const;
};

}  // namespace liger::detail
