#include "io/atomic_directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <optional>
#include <regex>
#include <set>

#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {
namespace fs = std::filesystem;
namespace detail {
namespace {

/// Siblings `.NAMEmiddleDIGITS` of a folder.
std::vector<fs::path> numbered_siblings(const fs::path& folder, const std::string& middle) {
  const std::string prefix = sibling(folder, middle).filename().string();
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder_of(folder), error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(prefix) || name.size() == prefix.size()) continue;
    const bool digits = std::all_of(name.begin() + static_cast<long>(prefix.size()), name.end(),
                                    [](char c) { return std::isdigit(static_cast<unsigned char>(c)); });
    if (digits && entry->is_directory(error) && !entry->is_symlink(error)) found.push_back(entry->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// NAME of ".NAME.lock", ".NAME.tmp-DIGITS" and ".NAME.old-DIGITS"; empty for other names.
std::string name_of_leftover(const std::string& hidden) {
  static const std::regex leftover(R"(\.(.+)\.(lock|(tmp|old)-[0-9]+))");
  std::smatch parts;
  return std::regex_match(hidden, parts, leftover) ? parts[1].str() : "";
}

}  // namespace

fs::path swap_folders(const fs::path& from, const fs::path& to, bool exchange) {
  if (exchange && ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return from;
  if (exchange && errno != ENOSYS && errno != EINVAL && errno != EXDEV) fail_errno(to, "replace");
  const fs::path old = sibling(to, ".old-" + std::to_string(::getpid()));
  if (::rename(to.c_str(), old.c_str()) != 0) fail_errno(to, "replace");
  if (::rename(from.c_str(), to.c_str()) != 0) {
    const int reason = errno;
    ::rename(old.c_str(), to.c_str());
    fail_errno(to, "replace", reason);
  }
  return old;
}

void recover_swap(const fs::path& folder) {
  std::error_code error;
  for (const fs::path& old : numbered_siblings(folder, ".old-")) {
    if (fs::exists(fs::symlink_status(folder))) {
      fs::remove_all(old, error);
    } else if (::rename(old.c_str(), folder.c_str()) != 0) {
      fail_errno(old, "restore");
    }
  }
  for (const fs::path& stale : numbered_siblings(folder, ".tmp-")) fs::remove_all(stale, error);
}

void recover_all(const fs::path& parent) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent)) {
    const std::string name = name_of_leftover(entry.path().filename().string());
    if (!name.empty()) names.insert(name);
  }
  for (const std::string& name : names) {
    try {
      const FolderLock lock(parent / name);  // its file goes with it
      recover_swap(parent / name);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kLocked) throw;  // its writer lives
    }
  }
}

}  // namespace detail

namespace {

/// Symbolic links followed, "x/" and "x/." taken as "x": the name that will be renamed over.
fs::path resolve(const fs::path& dir) {
  fs::path full = detail::with_file_errors([&] { return fs::weakly_canonical(fs::absolute(dir)); });
  if (!full.has_filename()) full = full.parent_path();
  LIGER_CHECK_USAGE(full.has_filename(), "'", dir.string(), "' cannot be an output folder");
  return full;
}

bool is_filled(const fs::path& dir) {
  const fs::file_status status = fs::symlink_status(dir);
  if (!fs::exists(status)) return false;
  if (!fs::is_directory(status)) fail(ErrorCode::kLocked, dir.string(), ": exists and is not a folder");
  return !fs::is_empty(dir);
}

void check_target(const fs::path& dir, bool overwrite) {
  if (!is_filled(dir)) return;
  if (!overwrite) {
    fail(ErrorCode::kLocked, dir.string(), ": is not empty; choose another output, or ask to overwrite it");
  }
  // A slip such as `--out ~` must not cost a home folder.
  if (!fs::exists(dir / detail::kManifest)) {
    fail(ErrorCode::kLocked, dir.string(), ": was not written by liger (no ", detail::kManifest,
         "), so it will not be overwritten; remove it yourself or choose another output");
  }
  const auto foreign = detail::first_unlisted(dir);
  if (foreign) {
    fail(ErrorCode::kLocked, foreign->string(), ": ", detail::kManifest,
         " does not list it, so it is not liger's, and ", dir.string(),
         " will not be overwritten; move it away or choose another output");
  }
}

}  // namespace

struct AtomicDirectory::Impl {
  Impl(fs::path target, bool may_overwrite)
      : dir(std::move(target)),
        overwrite(may_overwrite),
        parents(dir),
        lock(std::in_place, dir),
        temp(detail::sibling(dir, ".tmp-" + std::to_string(::getpid()))) {}

  // In this order: the lock file lies in the parents, so it goes first when they are taken back.
  fs::path dir;
  bool overwrite;
  detail::ParentFolders parents;
  std::optional<detail::FolderLock> lock;
  fs::path temp;
  bool committed = false;
};

AtomicDirectory::AtomicDirectory(fs::path dir, bool overwrite)
    : impl_(std::make_unique<Impl>(resolve(dir), overwrite)) {
  detail::with_file_errors([&] {
    detail::recover_swap(impl_->dir);
    check_target(impl_->dir, overwrite);
  });
  if (::mkdir(impl_->temp.c_str(), 0777) != 0) detail::fail_errno(impl_->temp, "create");
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!impl_->committed) fs::remove_all(impl_->temp, ignored);
}

const fs::path& AtomicDirectory::path() const { return impl_->committed ? impl_->dir : impl_->temp; }

void AtomicDirectory::commit(uint64_t hash_limit) {
  Impl& impl = *impl_;
  if (impl.committed) fail(ErrorCode::kInternal, impl.dir.string(), ": committed twice");
  detail::with_file_errors([&] {
    detail::write_manifest(impl.temp, hash_limit);
    check_target(impl.dir, impl.overwrite);
  });
  fs::path old;
  if (detail::with_file_errors([&] { return is_filled(impl.dir); })) {
    old = detail::swap_folders(impl.temp, impl.dir);
  } else if (::rename(impl.temp.c_str(), impl.dir.c_str()) != 0) {
    detail::fail_errno(impl.dir, "create");
  }
  impl.committed = true;
  impl.parents.keep();
  detail::sync_folder(detail::folder_of(impl.dir));
  std::error_code ignored;
  if (!old.empty()) fs::remove_all(old, ignored);
  impl.lock.reset();
}

}  // namespace liger
