// A save is killed, or refused by the system, at every single one of its system calls: what was there before must then
// be there still, or what was to come, and the next save must need no repair.

#ifdef __x86_64__  // registers are named here

#include <set>

#include "io/atomic_directory.h"
#include "io_test_util.h"
#include "liger/io/files.h"
#include "liger/io/safetensors.h"
#include "traced_child.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::get;
using test::kill_everywhere;
using test::put;
using test::TempDir;
using test::TracedChild;

void fill(const fs::path& dir, const std::string& text) {
  write_text_atomic(dir / "config.json", text);
  fs::create_directory(dir / "sub");
  put(dir / "sub" / "weights", text + text);
}

void make(const fs::path& dir, const std::string& text) {
  AtomicDirectory folder(dir, /*overwrite=*/true);
  fill(folder.path(), text);
  folder.commit();
}

/// Which text the folder holds, "" if it is not there. Anything between fails the test.
std::string content(const fs::path& dir) {
  if (!fs::exists(dir)) return "";
  verify_manifest(dir);
  const std::string text = get(dir / "config.json");
  EXPECT_EQ(get(dir / "sub" / "weights"), text + text);
  return text;
}

void reset(const fs::path& dir) {
  if (content(dir) != "old") make(dir, "old");
}

#define SKIP_UNLESS(runs) \
  if ((runs) == 0) GTEST_SKIP() << "ptrace is not allowed here"

TEST(Kill, AtomicFileIsOldOrNew) {
  TempDir dir;
  std::set<std::string> seen;
  const int runs = kill_everywhere([&] { write_text_atomic(dir / "a", "old"); },
                                   [&] { write_text_atomic(dir / "a", "new!"); }, [&] { seen.insert(get(dir / "a")); });
  SKIP_UNLESS(runs);
  EXPECT_EQ(seen, (std::set<std::string>{"old", "new!"}));
  write_text_atomic(dir / "a", "x");
  EXPECT_EQ(dir.list(), std::vector<std::string>{"a"}) << "what the killed writers left is gone";
}

TEST(Kill, NewFolderIsAbsentOrWhole) {
  TempDir dir;
  std::set<std::string> seen;
  const int runs = kill_everywhere([&] { fs::remove_all(dir / "p"); }, [&] { make(dir / "p" / "out", "new"); },
                                   [&] { seen.insert(content(dir / "p" / "out")); });
  SKIP_UNLESS(runs);
  EXPECT_EQ(seen, (std::set<std::string>{"", "new"}));
  make(dir / "p" / "out", "x");
  EXPECT_EQ(TempDir::list(dir / "p"), std::vector<std::string>{"out"});
}

TEST(Kill, OverwrittenFolderIsOldOrNew) {
  TempDir dir;
  std::set<std::string> seen;
  const int runs = kill_everywhere([&] { reset(dir / "out"); }, [&] { make(dir / "out", "new"); },
                                   [&] { seen.insert(content(dir / "out")); });
  SKIP_UNLESS(runs);
  EXPECT_EQ(seen, (std::set<std::string>{"old", "new"})) << "never absent";
  make(dir / "out", "x");
  EXPECT_EQ(dir.list(), std::vector<std::string>{"out"});
}

TEST(Kill, TwoStepSwapIsRepaired) {
  TempDir dir;
  std::set<std::string> seen;
  const auto prepare = [&] {
    reset(dir / "out");
    make(dir / "next", "new");
  };
  const int runs = kill_everywhere(
      prepare, [&] { detail::swap_folders(dir / "next", dir / "out", false); },
      [&] {
        detail::recover_swap(dir / "out");
        seen.insert(content(dir / "out"));
        EXPECT_FALSE(fs::exists(detail::sibling(dir / "out", ".old-1")));
      });
  SKIP_UNLESS(runs);
  EXPECT_EQ(seen, (std::set<std::string>{"old", "new"}));
}

TEST(Kill, SafetensorsFileIsAbsentOrWhole) {
  TempDir dir;
  std::set<bool> seen;
  const auto save = [&] {
    SafetensorsWriter writer(dir / "m.safetensors",
                             {{"a", Dtype::kU8, {3'000'000}, 0, 0}, {"b", Dtype::kF32, {5}, 0, 0}});
    for (const TensorInfo& info : writer.order()) writer.write(std::vector<std::byte>(info.bytes));
    writer.finish();
  };
  const int runs = kill_everywhere([&] { fs::remove(dir / "m.safetensors"); }, save,
                                   [&] {
                                     const bool there = fs::exists(dir / "m.safetensors");
                                     if (there) {
                                       EXPECT_EQ(SafetensorsFile(dir / "m.safetensors").tensors().size(), 2u);
                                     }
                                     seen.insert(there);
                                   });
  SKIP_UNLESS(runs);
  EXPECT_EQ(seen.size(), 2u);
}

/// Runs `save` again and again, each time with another one of its file calls failing with `error`.
void refuse_everywhere(int error, const std::function<void()>& prepare, const std::function<void()>& save,
                       const std::function<void(int code, long call)>& check) {
  for (int target = 1;; ++target) {
    prepare();
    TracedChild child(save);
    if (!child.traced()) GTEST_SKIP() << "ptrace is not allowed here";
    int calls = 0;
    while (calls < target && child.next()) ++calls;
    const long refused = calls < target ? -1 : child.call();
    if (refused == -1 || refused == SYS_exit_group) {
      EXPECT_GT(target, 10);
      return;
    }
    child.refuse(error);
    while (child.next()) {
    }
    SCOPED_TRACE(cat("system call ", refused, ", number ", target, " of the save, refused"));
    check(child.exit_code(), refused);
    if (testing::Test::HasFailure()) return;
  }
}

void expect_clean_refusal(int code, long call) {
  // A file that cannot be looked at may count as absent or in the way; what is refused while cleaning up is no error.
  const bool tolerated = call == SYS_unlink || call == SYS_unlinkat || call == SYS_rmdir || call == SYS_getdents64 ||
                         call == SYS_close || call == SYS_flock || call == SYS_openat || call == SYS_fstat ||
                         call == SYS_newfstatat || call == SYS_renameat2;
  const bool refused = code == static_cast<int>(ErrorCode::kIo) || code == static_cast<int>(ErrorCode::kLocked);
  EXPECT_TRUE(refused || (tolerated && code == 0)) << "exit code " << code;
}

TEST(Refuse, AtomicFileIsOldOrNew) {
  for (const int error : {EIO, ENOSPC}) {
    TempDir dir;
    refuse_everywhere(
        error, [&] { write_text_atomic(dir / "a", "old"); }, [&] { write_text_atomic(dir / "a", "new!"); },
        [&](int code, long call) {
          expect_clean_refusal(code, call);
          const std::string text = get(dir / "a");
          EXPECT_TRUE(text == "new!" || (code != 0 && text == "old")) << text;
          if (call != SYS_unlink) {
            EXPECT_EQ(dir.list(), std::vector<std::string>{"a"});
          }
        });
  }
}

TEST(Refuse, OverwrittenFolderIsOldOrNew) {
  for (const int error : {EIO, ENOSPC}) {
    TempDir dir;
    refuse_everywhere(
        error, [&] { reset(dir / "out"); },
        [&] {
          AtomicDirectory folder(dir / "out", true);
          write_text_atomic(folder.path() / "config.json", "new");
          fs::create_directory(folder.path() / "sub");
          write_text_atomic(folder.path() / "sub" / "weights", "newnew");
          folder.commit();
        },
        [&](int code, long call) {
          // create_directory reports its own kind of exception, as a caller's own code may.
          if (call != SYS_mkdir) expect_clean_refusal(code, call);
          const std::string text = content(dir / "out");
          EXPECT_TRUE(text == "new" || (code != 0 && text == "old")) << text << ", exit code " << code;
        });
  }
}

}  // namespace
}  // namespace liger

#endif
