#include "liger/io/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::get;
using test::put;
using test::TempDir;

mode_t mode_of(const fs::path& path) {
  struct stat status{};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

/// Lets no file of this process grow beyond `bytes`: writing more fails as a full disk does.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const struct rlimit limit = {bytes, old_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    ::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  struct rlimit old_{};
  void (*handler_)(int);
};

TEST(MappedFile, ReadsAndNeverWritesBack) {
  TempDir dir;
  put(dir / "a", "hello");
  {
    const MappedFile map(dir / "a");
    ASSERT_EQ(map.bytes().size(), 5u);
    EXPECT_EQ(map.bytes()[1], std::byte{'e'});
    map.mutable_data()[1] = std::byte{'X'};
    EXPECT_EQ(map.bytes()[1], std::byte{'X'});
  }
  EXPECT_EQ(get(dir / "a"), "hello");
}

TEST(MappedFile, EmptyAndHugeFiles) {
  TempDir dir;
  put(dir / "a", "");
  EXPECT_EQ(MappedFile(dir / "a").bytes().size(), 0u);
  fs::resize_file(dir / "a", uint64_t{1} << 40);  // sparse
  const MappedFile huge(dir / "a");
  EXPECT_EQ(huge.bytes().size(), uint64_t{1} << 40);
  EXPECT_EQ(huge.bytes().back(), std::byte{0});
}

TEST(MappedFile, ReadAtSeesAFileCutShort) {
  TempDir dir;
  put(dir / "a", "0123456789");
  const MappedFile map(dir / "a");
  std::vector<std::byte> out(4);
  map.read_at(3, out);
  EXPECT_EQ(out[0], std::byte{'3'});
  fs::resize_file(dir / "a", 5);
  EXPECT_LIGER_ERROR(map.read_at(3, out), ErrorCode::kBadInput, "a: ends at byte 5, expected 7 or more");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  TempDir dir;
  EXPECT_LIGER_ERROR(MappedFile(dir / "no"), ErrorCode::kIo, "no: cannot open: No such file or directory");
  EXPECT_LIGER_ERROR(MappedFile(dir.path()), ErrorCode::kBadInput, "expected a file, got a directory");
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_LIGER_ERROR(MappedFile(dir / "pipe"), ErrorCode::kBadInput, "expected a file, got a named pipe");
  EXPECT_LIGER_ERROR(MappedFile("/dev/null"), ErrorCode::kBadInput, "expected a file, got a device");
}

TEST(ReadText, ReadsWithinItsLimit) {
  TempDir dir;
  put(dir / "a", std::string("a\0b", 3));
  EXPECT_EQ(read_text(dir / "a"), std::string("a\0b", 3));
  EXPECT_EQ(read_text(dir / "a", 3).size(), 3u);
  EXPECT_LIGER_ERROR(read_text(dir / "a", 2), ErrorCode::kBadInput, "expected at most 2 bytes, got 3");
  EXPECT_FALSE(read_text("/proc/self/status").empty()) << "a file that says it is empty";
  EXPECT_LIGER_ERROR(read_text("/proc/self/status", 10), ErrorCode::kBadInput, "expected at most 10 bytes");
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_LIGER_ERROR(read_text(dir / "pipe"), ErrorCode::kBadInput, "a named pipe");
}

TEST(AtomicFile, AppearsOnlyAtCommit) {
  TempDir dir;
  put(dir / "a", "old");
  AtomicFile file(dir / "a");
  file.write("new ");
  file.write(std::string(3 << 20, 'x'));
  file.write("!");
  EXPECT_EQ(get(dir / "a"), "old");
  EXPECT_EQ(dir.list().size(), 2u);
  file.commit();
  EXPECT_EQ(get(dir / "a"), "new " + std::string(3 << 20, 'x') + "!");
  EXPECT_EQ(dir.list(), std::vector<std::string>{"a"});
}

TEST(AtomicFile, LeavesNothingUnlessCommitted) {
  TempDir dir;
  put(dir / "a", "old");
  {
    AtomicFile(dir / "a").write("new");
  }
  EXPECT_EQ(get(dir / "a"), "old");
  EXPECT_EQ(dir.list(), std::vector<std::string>{"a"});
}

TEST(AtomicFile, ModeFollowsTheUmask) {
  TempDir dir;
  for (const auto& [mask, expected] : std::vector<std::pair<mode_t, mode_t>>{{022, 0644}, {077, 0600}, {002, 0664}}) {
    const mode_t old = ::umask(mask);
    write_text_atomic(dir / "a", "x");
    const AtomicDirectory folder(dir / "d");
    ::umask(old);
    EXPECT_EQ(mode_of(dir / "a"), expected);
    EXPECT_EQ(mode_of(folder.path()), expected | (expected >> 2 & 0111));
  }
}

TEST(AtomicFile, ReplacesALinkAndNotItsTarget) {
  TempDir dir;
  put(dir / "target", "old");
  fs::create_symlink("target", dir / "link");
  write_text_atomic(dir / "link", "new");
  EXPECT_EQ(get(dir / "target"), "old");
  EXPECT_FALSE(fs::is_symlink(dir / "link"));
}

TEST(AtomicFile, FullDiskLeavesTheOldFile) {
  TempDir dir;
  put(dir / "a", "old");
  for (const size_t size : {size_t{1}, size_t{5000}, size_t{1} << 20, size_t{40} << 20}) {
    const std::string text(size, 'x');
    const FileSizeLimit limit(size - 1);
    EXPECT_LIGER_ERROR(write_text_atomic(dir / "a", text), ErrorCode::kIo, "a: cannot write: File too large");
    EXPECT_EQ(get(dir / "a"), "old");
    EXPECT_EQ(dir.list(), std::vector<std::string>{"a"});
  }
}

TEST(AtomicFile, CommitAfterAFailedWriteIsRefused) {
  TempDir dir;
  const FileSizeLimit limit(1 << 20);
  AtomicFile file(dir / "a");
  EXPECT_LIGER_ERROR(file.write(std::string(2 << 20, 'x')), ErrorCode::kIo, "cannot write");
  EXPECT_LIGER_ERROR(file.commit(), ErrorCode::kInternal, "after a failed write");
  EXPECT_FALSE(fs::exists(dir / "a"));
}

TEST(AtomicFile, ReserveFindsAFullDiskEarly) {
  TempDir dir;
  AtomicFile file(dir / "a");
  file.reserve(1 << 20);
  EXPECT_LIGER_ERROR(file.reserve(uint64_t{1} << 60), ErrorCode::kIo, "a: cannot reserve 1152921504606846976 bytes: ");
  file.write("small");
  file.commit();
  EXPECT_EQ(get(dir / "a"), "small") << "reserved space does not show in the size";
}

TEST(AtomicFile, SystemErrorsNameTheFile) {
  TempDir dir;
  EXPECT_LIGER_ERROR(AtomicFile(dir / "no" / "a"), ErrorCode::kIo, "no/a: cannot create: No such file or directory");
  EXPECT_LIGER_ERROR(AtomicFile{dir.path()}, ErrorCode::kIo, "cannot write: Is a directory");
  EXPECT_LIGER_ERROR(AtomicFile("/proc/a"), ErrorCode::kIo, "/proc/a: cannot create");
}

TEST(AtomicFile, RemovesWhatAKilledWriterLeft) {
  TempDir dir;
  put(dir / ".a.tmp-1-0", "stale");
  put(dir / ".a.tmp-99999999-3", "stale");
  put(dir / ".a.tmp-x", "not ours");
  put(dir / ".ab.tmp-1-0", "of another file");
  put(dir / ".a.tmp-2-0", "in use");
  const int held = ::open((dir / ".a.tmp-2-0").c_str(), O_RDONLY);
  ASSERT_EQ(::flock(held, LOCK_EX), 0);
  write_text_atomic(dir / "a", "new");
  EXPECT_EQ(dir.list(), (std::vector<std::string>{".a.tmp-2-0", ".a.tmp-x", ".ab.tmp-1-0", "a"}));
  ::close(held);
}

TEST(AtomicFile, TwoWritersOfOneFileDoNotDisturbEachOther) {
  TempDir dir;
  AtomicFile one(dir / "a"), two(dir / "a");
  one.write("one");
  two.write("two");
  one.commit();
  EXPECT_EQ(get(dir / "a"), "one");
  two.commit();
  EXPECT_EQ(get(dir / "a"), "two");
}

TEST(Sha256, KnownValues) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  TempDir dir;
  const std::string text(3'000'000, 'a');
  put(dir / "a", text);
  EXPECT_EQ(sha256_file(dir / "a"), sha256_hex(text));
}

TEST(PlaceFile, HardLinksWithinAFileSystem) {
  TempDir dir;
  put(dir / "blob", "weights");
  fs::create_symlink("blob", dir / "link");
  EXPECT_EQ(place_file(dir / "link", dir / "a"), Placed::kHardLink);
  EXPECT_FALSE(fs::is_symlink(dir / "a"));
  EXPECT_TRUE(fs::equivalent(dir / "a", dir / "blob"));
  EXPECT_EQ(get(dir / "a"), "weights");
}

TEST(PlaceFile, CopiesAcrossFileSystems) {
  const fs::path elsewhere = "/dev/shm";
  TempDir dir;
  std::error_code error;
  if (!fs::is_directory(elsewhere, error) || ::access(elsewhere.c_str(), W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  std::string name = (elsewhere / "liger-test-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const std::string text(5'000'001, 'q');
  put(fs::path(name) / "from", text);
  const Placed placed = place_file(fs::path(name) / "from", dir / "to");
  fs::remove_all(name);
  EXPECT_EQ(get(dir / "to"), text);
  EXPECT_TRUE(placed == Placed::kCopy || placed == Placed::kHardLink) << to_string(placed);
  EXPECT_EQ(to_string(Placed::kReflink), std::string("reflink"));
}

TEST(PlaceFile, Refusals) {
  TempDir dir;
  put(dir / "a", "x");
  put(dir / "b", "y");
  EXPECT_LIGER_ERROR(place_file(dir / "a", dir / "b"), ErrorCode::kIo, "b: cannot create: File exists");
  EXPECT_LIGER_ERROR(place_file(dir / "no", dir / "c"), ErrorCode::kIo, "no: cannot open: No such file");
  EXPECT_LIGER_ERROR(place_file(dir.path(), dir / "c"), ErrorCode::kBadInput, "got a directory");
  EXPECT_LIGER_ERROR(place_file(dir / "a", dir / "no" / "c"), ErrorCode::kIo, "no/c: cannot create: No such file");
  EXPECT_EQ(get(dir / "b"), "y");
}

}  // namespace
}  // namespace liger
