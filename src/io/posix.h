#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

// The system calls this library makes, with their errors told as "PATH: cannot ...: reason".

namespace liger::detail {

/// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  /// Closes now and returns what close() said: a network file system reports a failed write only here.
  int close();

 private:
  int fd_ = -1;
};

/// Throws Error(kIo) "PATH: cannot `doing`: reason".
[[noreturn]] void fail_errno(const std::filesystem::path& path, const std::string& doing, int error = errno);

/// Runs `body`; an error of std::filesystem leaves it as an Error(kIo) that names the path and the reason.
template <typename Body>
decltype(auto) with_file_errors(Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const std::filesystem::filesystem_error& error) {
    fail_errno(error.path1(), "read", error.code().value());
  }
}

/// Opens a regular file for reading; never blocks. Throws Error(kIo), or Error(kBadInput) naming what else it is.
Fd open_regular(const std::filesystem::path& file);
uint64_t size_of(const Fd& fd, const std::filesystem::path& file);

/// Reads up to `size` bytes at `offset`; fewer only at the end of the file.
size_t read_at(const Fd& fd, void* to, size_t size, uint64_t offset, const std::filesystem::path& file);
void write_all(const Fd& fd, const void* data, size_t size, const std::filesystem::path& file);

void sync_file(const Fd& fd, const std::filesystem::path& file);
/// Makes the names inside a folder durable.
void sync_folder(const std::filesystem::path& folder);

/// The folder a path lies in; "." for a bare name.
std::filesystem::path folder_of(const std::filesystem::path& path);

}  // namespace liger::detail
