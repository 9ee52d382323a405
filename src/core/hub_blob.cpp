#include "core/hub_blob.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "liger/error.h"
#include "liger/io/interrupt.h"

namespace liger::detail {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kSyncPiece = uint64_t{16} << 20;

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

}  // namespace

Blob::Blob(const CacheEntry& entry, const HubFile& file)
    : blob_(entry.blob(file)),
      incomplete_(with_suffix(blob_, ".incomplete")),
      lock_file_(entry.cache / ".locks" / entry.folder.filename() / (file.hash + ".lock")),
      file_(file),
      digest_(new_digest()) {}

// git puts "blob SIZE" and a zero in front of what it hashes.
Digest Blob::new_digest() const {
  Digest digest(file_.kind());
  if (file_.kind() == Digest::Kind::kSha1) {
    const std::string head = cat("blob ", file_.size);
    digest.add(head.c_str(), head.size() + 1);
  }
  return digest;
}

uint64_t Blob::open() {
  make_folders(lock_file_.parent_path());
  make_folders(blob_.parent_path());
  lock_ = Fd(::open(lock_file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664));
  if (!lock_) fail_errno(lock_file_, "create");
  // Where there are no locks (some network file systems), the hash still is what decides.
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    fail(ErrorCode::kLocked, blob_.string(), ": another program is fetching it; wait for it to end");
  fd_ = Fd(::open(incomplete_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
  if (!fd_) fail_errno(incomplete_, "create");
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) fail_errno(incomplete_, "stat");
  LIGER_CHECK(S_ISREG(status.st_mode), incomplete_.string(), ": expected a file; remove what is there");
  if (static_cast<uint64_t>(status.st_size) > file_.size) restart();
  std::vector<char> piece(size_t{1} << 20);
  while (const size_t got = read_at(fd_, piece.data(), piece.size(), held_, incomplete_)) {
    throw_if_interrupted();
    digest_.add(piece.data(), got);
    held_ += got;
  }
  synced_ = held_;
  if (::lseek(fd_.get(), static_cast<off_t>(held_), SEEK_SET) < 0) fail_errno(incomplete_, "write");
  return held_;
}

void Blob::write(std::string_view bytes) {
  write_all(fd_, bytes.data(), bytes.size(), incomplete_);
  digest_.add(bytes.data(), bytes.size());
  held_ += bytes.size();
  if (held_ - synced_ < kSyncPiece) return;
  // Starts the disk now: otherwise gigabytes of dirty pages wait for the sync at the end.
  ::sync_file_range(fd_.get(), static_cast<off_t>(synced_), static_cast<off_t>(held_ - synced_), SYNC_FILE_RANGE_WRITE);
  synced_ = held_;
}

void Blob::restart() {
  if (::ftruncate(fd_.get(), 0) != 0 || ::lseek(fd_.get(), 0, SEEK_SET) < 0) fail_errno(incomplete_, "write");
  digest_ = new_digest();
  held_ = synced_ = 0;
}

bool Blob::finish() {
  if (held_ != file_.size || digest_.hex() != file_.hash) {
    restart();
    ::unlink(incomplete_.c_str());
    fd_ = Fd(::open(incomplete_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd_) fail_errno(incomplete_, "create");
    return false;
  }
  sync_file(fd_, incomplete_);
  if (::rename(incomplete_.c_str(), blob_.c_str()) != 0) fail_errno(blob_, "create");
  if (fd_.close() != 0) fail_errno(blob_, "write");
  sync_folder(blob_.parent_path());
  lock_ = Fd();
  return true;
}

}  // namespace liger::detail
