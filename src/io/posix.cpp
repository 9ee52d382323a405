#include "io/posix.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>

#include "liger/error.h"

namespace liger::detail {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "not a regular file";
}

}  // namespace

Fd::~Fd() { close(); }

int Fd::close() {
  const int fd = std::exchange(fd_, -1);
  return fd >= 0 ? ::close(fd) : 0;
}

void fail_errno(const std::filesystem::path& path, const std::string& doing, int error) {
  fail(ErrorCode::kIo, path.string(), ": cannot ", doing, ": ", std::system_category().message(error));
}

Fd open_regular(const std::filesystem::path& file) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer. Regular files ignore it.
  Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) fail_errno(file, "open");
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) fail_errno(file, "stat");
  LIGER_CHECK(S_ISREG(status.st_mode), file.string(), ": expected a file, got ", kind_of(status.st_mode));
  return fd;
}

uint64_t size_of(const Fd& fd, const std::filesystem::path& file) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) fail_errno(file, "stat");
  return static_cast<uint64_t>(status.st_size);
}

size_t read_at(const Fd& fd, void* to, size_t size, uint64_t offset, const std::filesystem::path& file) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got =
        ::pread(fd.get(), static_cast<char*>(to) + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(file, "read");
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void write_all(const Fd& fd, const void* data, size_t size, const std::filesystem::path& file) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t put = ::write(fd.get(), at, size);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno(file, "write");
    at += put;
    size -= static_cast<size_t>(put);
  }
}

void sync_file(const Fd& fd, const std::filesystem::path& file) {
  if (::fsync(fd.get()) != 0) fail_errno(file, "sync");
}

void sync_folder(const std::filesystem::path& folder) {
  const Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) fail_errno(folder, "open");
  // Some file systems cannot sync a folder and say so; there is nothing more to do then.
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP) fail_errno(folder, "sync");
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace liger::detail
