#include "liger/io/files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "io/posix.h"
#include "liger/error.h"

namespace liger {
namespace fs = std::filesystem;

MappedFile::MappedFile(const fs::path& file) : file_(file) {
  detail::Fd fd = detail::open_regular(file);
  size_ = detail::size_of(fd, file);
  if (size_ > 0) {
    // MAP_NORESERVE: the private copies are few or none, and a file larger than memory must still map.
    void* at = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd.get(), 0);
    if (at == MAP_FAILED) detail::fail_errno(file, "map");
    data_ = static_cast<std::byte*>(at);
  }
  fd_ = fd.release();
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
  ::close(fd_);
}

void MappedFile::read_at(uint64_t offset, std::span<std::byte> to) const {
  size_t done = 0;
  while (done < to.size()) {
    const ssize_t got = ::pread(fd_, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) detail::fail_errno(file_, "read");
    LIGER_CHECK(got > 0, file_.string(), ": ends at byte ", offset + done, ", expected ", offset + to.size(),
                " or more: the file was cut short while in use");
    done += static_cast<size_t>(got);
  }
}

std::string read_text(const fs::path& file, size_t max_bytes) {
  const detail::Fd fd = detail::open_regular(file);
  const auto check_size = [&](uint64_t size) {
    LIGER_CHECK(size <= max_bytes, file.string(), ": expected at most ", max_bytes, " bytes, got ", size);
  };
  check_size(detail::size_of(fd, file));
  // The size is only a first guess: files under /proc say 0, and a file may grow while it is read.
  std::string text(detail::size_of(fd, file) + 1, '\0');
  size_t done = 0;
  while (true) {
    done += detail::read_at(fd, text.data() + done, text.size() - done, done, file);
    if (done < text.size()) break;
    check_size(done);
    text.resize(text.size() * 2);
  }
  check_size(done);
  text.resize(done);
  return text;
}

namespace {

constexpr size_t kCopyPiece = size_t{64} << 20;

void copy_by_hand(const detail::Fd& in, const detail::Fd& out, uint64_t offset, const fs::path& from,
                  const fs::path& to) {
  std::vector<char> piece(size_t{1} << 20);
  while (const size_t got = detail::read_at(in, piece.data(), piece.size(), offset, from)) {
    detail::write_all(out, piece.data(), got, to);
    offset += got;
  }
}

void copy_bytes(const detail::Fd& in, const detail::Fd& out, const fs::path& from, const fs::path& to) {
  const uint64_t size = detail::size_of(in, from);
  for (uint64_t done = 0; done < size;) {
    auto at = static_cast<off_t>(done);
    const ssize_t got = ::copy_file_range(in.get(), &at, out.get(), nullptr, kCopyPiece, 0);
    if (got < 0 && errno == EINTR) continue;
    const bool unsupported = got < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP);
    // 0 before the end: some file systems do not implement it but do not say so.
    if (unsupported || got == 0) return copy_by_hand(in, out, done, from, to);
    if (got < 0) detail::fail_errno(to, "write");
    done += static_cast<uint64_t>(got);
  }
}

Placed clone_or_copy(const fs::path& from, const fs::path& to) {
  const detail::Fd in = detail::open_regular(from);
  detail::Fd out(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!out) detail::fail_errno(to, "create");
  try {
    if (::ioctl(out.get(), FICLONE, in.get()) == 0) return Placed::kReflink;
    copy_bytes(in, out, from, to);
    detail::sync_file(out, to);
    if (out.close() != 0) detail::fail_errno(to, "write");
    return Placed::kCopy;
  } catch (...) {
    ::unlink(to.c_str());
    throw;
  }
}

}  // namespace

Placed place_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  const fs::path source = fs::canonical(from, error);
  if (error) detail::fail_errno(from, "open", error.value());
  detail::open_regular(source);  // says what else it is
  if (::link(source.c_str(), to.c_str()) == 0) return Placed::kHardLink;
  // These say "not here"; anything copying could help with is tried by copying, which reports its own failure.
  if (errno == EEXIST || errno == ENOENT || errno == ENOTDIR || errno == ENOSPC || errno == EROFS) {
    detail::fail_errno(to, "create");
  }
  return clone_or_copy(source, to);
}

const char* to_string(Placed placed) {
  switch (placed) {
    case Placed::kHardLink: return "hard link";
    case Placed::kReflink: return "reflink";
    case Placed::kCopy: return "copy";
  }
  return "?";
}

}  // namespace liger
