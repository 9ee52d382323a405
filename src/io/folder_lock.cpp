#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <thread>

#include "io/atomic_directory.h"
#include "liger/error.h"

namespace liger::detail {
namespace fs = std::filesystem;
namespace {

std::string read_holder(const Fd& fd, const fs::path& file) {
  // The holder writes its number right after it has the lock.
  for (int attempt = 0; attempt < 20; ++attempt) {
    char text[32];
    const size_t size = read_at(fd, text, sizeof(text), 0, file);
    if (size > 0 &&
        std::all_of(text, text + size, [](char c) { return std::isdigit(static_cast<unsigned char>(c)); })) {
      return "process " + std::string(text, size);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return "another process";
}

}  // namespace

fs::path sibling(const fs::path& folder, const std::string& suffix) {
  return folder_of(folder) / cat(".", folder.filename().string(), suffix);
}

FolderLock::FolderLock(const fs::path& folder) : file_(sibling(folder, ".lock")) {
  do {
    fd_ = Fd(::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!fd_) fail_errno(file_, "create");
    while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) fail_errno(file_, "lock");
      fail(ErrorCode::kLocked, folder.string(), ": ", read_holder(fd_, file_),
           " is writing it; wait for it to end or choose another output");
    }
  } while (!is_named());
  try {
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(fd_.get(), 0) != 0) fail_errno(file_, "write");
    write_all(fd_, pid.data(), pid.size(), file_);
  } catch (...) {
    ::unlink(file_.c_str());
    throw;
  }
}

bool FolderLock::is_named() const {
  // The last holder may have removed the file between our open and our lock: then we hold a lock on nothing.
  struct stat ours{}, named{};
  return ::fstat(fd_.get(), &ours) == 0 && ::stat(file_.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
         ours.st_dev == named.st_dev;
}

FolderLock::~FolderLock() { ::unlink(file_.c_str()); }

ParentFolders::ParentFolders(const fs::path& folder) {
  std::vector<fs::path> missing;
  std::error_code error;
  for (fs::path at = folder_of(folder); !fs::exists(at, error) && !error; at = folder_of(at)) missing.push_back(at);
  std::reverse(missing.begin(), missing.end());
  for (const fs::path& at : missing) {
    if (::mkdir(at.c_str(), 0777) == 0) {
      made_.push_back(at);
    } else if (errno != EEXIST) {
      const int reason = errno;
      for (auto made = made_.rbegin(); made != made_.rend(); ++made) ::rmdir(made->c_str());
      fail_errno(at, "create", reason);
    }
  }
}

ParentFolders::~ParentFolders() {
  for (auto at = made_.rbegin(); at != made_.rend(); ++at) ::rmdir(at->c_str());
}

void ParentFolders::keep() {
  for (const fs::path& at : made_) sync_folder(folder_of(at));
  made_.clear();
}

}  // namespace liger::detail
