#pragma once

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

#include "liger/error.h"

namespace liger::fuzz {

/// A file in memory that is given new content for each input, under a name with the extension a parser expects.
class InputFile {
 public:
  explicit InputFile(const char* extension) : fd_(::memfd_create("input", 0)) {
    std::string folder = (std::filesystem::temp_directory_path() / "liger-fuzz-XXXXXX").string();
    if (fd_ < 0 || ::mkdtemp(folder.data()) == nullptr) std::abort();
    link_ = std::filesystem::path(folder) / (std::string("input") + extension);
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(fd_), link_);
  }
  ~InputFile() {
    std::error_code ignored;
    std::filesystem::remove_all(link_.parent_path(), ignored);
    ::close(fd_);
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  const std::filesystem::path& set(const uint8_t* data, size_t size) {
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
    return link_;
  }

 private:
  int fd_;
  std::filesystem::path link_;
};

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

/// Runs `body`; an Error of one short line is a fine answer to bad input, anything else is a bug.
template <typename Body>
void accept_or_refuse(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    const std::string_view text = error.what();
    require(!text.empty() && text.size() < 2000, "a message is one short line");
    require(text.find_first_of("\n\x1b") == std::string_view::npos, "a message is one printable line");
  }
}

}  // namespace liger::fuzz
