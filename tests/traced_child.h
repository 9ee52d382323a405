#pragma once

// A child process that is stopped before each of its file calls, for tests that kill it there. x86-64 only: registers
// are named here.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <set>

#include "liger/error.h"

namespace liger::test {

// The calls that read or change files, or bring bytes from a network; a kill between two of them is a kill before the
// second.
inline const std::set<long> kFileCalls = {SYS_openat,    SYS_open,    SYS_write,      SYS_fsync,      SYS_rename,
                                          SYS_renameat2, SYS_mkdir,   SYS_flock,      SYS_ftruncate,  SYS_fallocate,
                                          SYS_close,     SYS_pread64, SYS_unlink,     SYS_rmdir,      SYS_link,
                                          SYS_unlinkat,  SYS_fstat,   SYS_newfstatat, SYS_getdents64, SYS_exit_group,
                                          SYS_symlink,   SYS_statfs,  SYS_readlink,   SYS_recvfrom};

/// A child process that runs `body` and stops before each of its file calls.
class TracedChild {
 public:
  explicit TracedChild(const std::function<void()>& body) : pid_(::fork()) {
    if (pid_ == 0) run(body);
    ::waitpid(pid_, &status_, 0);
    traced_ = WIFSTOPPED(status_);
    ended_ = !traced_;
    ::ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  }
  ~TracedChild() { kill(); }
  TracedChild(const TracedChild&) = delete;
  TracedChild& operator=(const TracedChild&) = delete;

  bool traced() const { return traced_; }
  /// Goes on to the next file call; false when the process has ended.
  bool next() {
    while (step()) {
      entering_ = !entering_;
      if (entering_ && kFileCalls.contains(call())) return true;
    }
    return false;
  }
  long call() const { return static_cast<long>(registers().orig_rax); }
  int exit_code() const { return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1; }
  void kill() {
    if (ended_) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status_, 0);
    ended_ = true;
  }
  /// The call it stopped before is not made and fails with `error`.
  void refuse(int error) {
    user_regs_struct all = registers();
    all.orig_rax = static_cast<unsigned long long>(-1);
    ::ptrace(PTRACE_SETREGS, pid_, nullptr, &all);
    if (!step()) return;
    entering_ = false;
    all = registers();
    all.rax = static_cast<unsigned long long>(-error);
    ::ptrace(PTRACE_SETREGS, pid_, nullptr, &all);
  }

 private:
  [[noreturn]] static void run(const std::function<void()>& body) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(99);
    ::raise(SIGSTOP);
    try {
      body();
    } catch (const Error& error) {
      ::_exit(static_cast<int>(error.code()));
    } catch (...) {
      ::_exit(98);
    }
    ::_exit(0);
  }
  bool step() {
    if (ended_ || ::ptrace(PTRACE_SYSCALL, pid_, nullptr, nullptr) != 0) return false;
    ::waitpid(pid_, &status_, 0);
    ended_ = WIFEXITED(status_) || WIFSIGNALED(status_);
    return !ended_;
  }
  user_regs_struct registers() const {
    user_regs_struct all{};
    ::ptrace(PTRACE_GETREGS, pid_, nullptr, &all);
    return all;
  }

  pid_t pid_;
  int status_ = 0;
  bool traced_ = false, ended_ = false, entering_ = false;
};

/// Runs `save` again and again, killed before its first file call, its second, ... until it ends by itself.
/// Returns how often it was run, 0 if processes cannot be traced here.
inline int kill_everywhere(const std::function<void()>& prepare, const std::function<void()>& save,
                           const std::function<void()>& check) {
  for (int target = 1;; ++target) {
    prepare();
    TracedChild child(save);
    if (!child.traced()) return 0;
    int calls = 0;
    while (calls < target && child.next()) ++calls;
    if (calls < target) {
      EXPECT_EQ(child.exit_code(), 0);
      return target;
    }
    child.kill();
    SCOPED_TRACE(cat("killed before file call ", target));
    check();
    if (testing::Test::HasFailure()) return target;
  }
}

}  // namespace liger::test
