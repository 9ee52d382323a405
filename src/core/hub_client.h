#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/digest.h"
#include "io/http.h"
#include "liger/core/download.h"

namespace liger::detail {

/// A file of a repository, as the hub lists it.
struct HubFile {
  std::string path;  ///< plain names joined by '/'
  uint64_t size = 0;
  std::string hash;  ///< of its content, and the name of its blob
  /// git names small files by a sha1 of them with a head in front; large ones have a plain sha256.
  Digest::Kind kind() const { return hash.size() == 40 ? Digest::Kind::kSha1 : Digest::Kind::kSha256; }
};

/// A repository on the hub.
struct Hub {
  std::string repository, endpoint, token;
  DownloadOptions options;

  /// Fills in what the environment says. Throws Error(kUsage) if HF_HUB_OFFLINE is set.
  Hub(std::string repository, const DownloadOptions& options);
  std::string file_url(const std::string& commit, const std::string& path) const;
  /// With the token if the address is the hub's.
  std::vector<std::string> headers_for(const std::string& url) const;
  bool is_hub(const std::string& url) const;

  /// The commit of a branch or a tag.
  std::string commit_of(const std::string& revision) const;
  /// Every file of a commit. Throws Error(kBadInput) for names that lead out of the folder, or a listing too long.
  std::vector<HubFile> files(const std::string& commit) const;
};

/// Throws what an answer that is an error means, and what one can do; `what` was asked for.
[[noreturn]] void fail_status(const Hub& hub, const HttpHead& head, const std::string& what);

}  // namespace liger::detail
