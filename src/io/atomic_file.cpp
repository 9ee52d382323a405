#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>

#include "io/posix.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

constexpr size_t kBuffer = size_t{1} << 20;
constexpr size_t kWritePiece = size_t{16} << 20;

/// Removes what killed writers of the same file left: temporary files that nobody holds a lock on.
void remove_stale(const fs::path& folder, const std::string& prefix) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const auto digits = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) || c == '-'; };
    if (!name.starts_with(prefix) ||
        !std::all_of(name.begin() + static_cast<long>(prefix.size()), name.end(), digits)) {
      continue;
    }
    const detail::Fd fd(::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(entry->path().c_str());
  }
}

}  // namespace

struct AtomicFile::Impl {
  fs::path file, temp;
  detail::Fd fd;
  std::string buffer;
  uint64_t written = 0;
  bool failed = false;

  void create();
  void write(const void* data, size_t size);
};

void AtomicFile::Impl::create() {
  static std::atomic<unsigned> counter{0};
  const std::string prefix = cat(".", file.filename().string(), ".tmp-");
  remove_stale(detail::folder_of(file), prefix);
  while (true) {
    temp = detail::folder_of(file) / cat(prefix, ::getpid(), "-", counter++);
    fd = detail::Fd(::open(temp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd && errno == EEXIST) continue;
    if (!fd) detail::fail_errno(file, "create");
    // Another process may take the new file for a stale one before the lock is ours; then it goes, and we retry.
    // Where there are no locks nobody removes files either.
    const bool taken = ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    struct stat status{};
    if (!taken && (::fstat(fd.get(), &status) != 0 || status.st_nlink > 0)) return;
  }
}

void AtomicFile::Impl::write(const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const size_t piece = std::min(size, kWritePiece);
    detail::write_all(fd, at, piece, file);
    // Starts the disk now: otherwise gigabytes of dirty pages wait for the sync at the end.
    ::sync_file_range(fd.get(), static_cast<off_t>(written), static_cast<off_t>(piece), SYNC_FILE_RANGE_WRITE);
    at += piece;
    size -= piece;
    written += piece;
  }
}

AtomicFile::AtomicFile(fs::path file) : impl_(std::make_unique<Impl>()) {
  impl_->file = std::move(file);
  std::error_code ignored;
  if (fs::is_directory(impl_->file, ignored)) detail::fail_errno(impl_->file, "write", EISDIR);
  impl_->create();
  impl_->buffer.reserve(kBuffer);
}

AtomicFile::~AtomicFile() {
  if (impl_->fd) ::unlink(impl_->temp.c_str());
}

void AtomicFile::reserve(uint64_t bytes) {
  // Unsupported on some file systems, where the disk is then found full only by writing.
  if (::fallocate(impl_->fd.get(), FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) == 0) return;
  if (errno == ENOSPC || errno == EFBIG || errno == EDQUOT) {
    detail::fail_errno(impl_->file, "reserve " + std::to_string(bytes) + " bytes");
  }
}

void AtomicFile::write(const void* data, size_t size) {
  Impl& impl = *impl_;
  impl.failed = true;  // until this write has gone well
  if (impl.buffer.size() + size > kBuffer) {
    impl.write(impl.buffer.data(), impl.buffer.size());
    impl.buffer.clear();
  }
  if (size >= kBuffer) {
    impl.write(data, size);  // straight from the caller's memory
  } else {
    impl.buffer.append(static_cast<const char*>(data), size);
  }
  impl.failed = false;
}

void AtomicFile::commit() {
  Impl& impl = *impl_;
  if (impl.failed || !impl.fd) fail(ErrorCode::kInternal, impl.file.string(), ": commit after a failed write");
  impl.write(impl.buffer.data(), impl.buffer.size());
  detail::sync_file(impl.fd, impl.file);
  if (::rename(impl.temp.c_str(), impl.file.c_str()) != 0) detail::fail_errno(impl.file, "create");
  if (impl.fd.close() != 0) detail::fail_errno(impl.file, "write");
  detail::sync_folder(detail::folder_of(impl.file));
}

void write_text_atomic(const fs::path& file, std::string_view text) {
  AtomicFile out(file);
  out.write(text);
  out.commit();
}

}  // namespace liger
