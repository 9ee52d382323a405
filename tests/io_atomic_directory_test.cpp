#include "io/atomic_directory.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io_test_util.h"
#include "liger/io/files.h"
#include "liger/io/json.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::get;
using test::put;
using test::TempDir;
using Names = std::vector<std::string>;

void fill(const fs::path& dir, const std::string& text) {
  write_text_atomic(dir / "config.json", text);
  fs::create_directory(dir / "sub");
  write_text_atomic(dir / "sub" / "weights", text + text);
}

void make(const fs::path& dir, const std::string& text, bool overwrite = false) {
  AtomicDirectory folder(dir, overwrite);
  fill(folder.path(), text);
  folder.commit();
}

TEST(AtomicDirectory, AppearsWholeWithAManifest) {
  TempDir dir;
  AtomicDirectory folder(dir / "out");
  fill(folder.path(), "abc");
  EXPECT_FALSE(fs::exists(dir / "out"));
  for (const std::string& name : dir.list()) EXPECT_EQ(name[0], '.') << name;
  folder.commit();
  EXPECT_EQ(folder.path(), fs::canonical(dir / "out"));
  EXPECT_EQ(dir.list(), Names{"out"});
  EXPECT_EQ(get(dir / "out" / "sub" / "weights"), "abcabc");
  const Json manifest = read_json(dir / "out" / "MANIFEST.json");
  const Json expected = {{"version", 1},
                         {"files",
                          {{{"path", "config.json"}, {"size", 3}, {"sha256", sha256_hex("abc")}},
                           {{"path", "sub/weights"}, {"size", 6}, {"sha256", sha256_hex("abcabc")}}}}};
  EXPECT_EQ(manifest, expected);
  verify_manifest(dir / "out");
  EXPECT_LIGER_ERROR(folder.commit(), ErrorCode::kInternal, "committed twice");
}

TEST(AtomicDirectory, HashesOnlyUpToTheLimit) {
  TempDir dir;
  AtomicDirectory folder(dir / "out");
  fill(folder.path(), "abc");
  folder.commit(3);
  const Json files = read_json(dir / "out" / "MANIFEST.json")["files"];
  EXPECT_TRUE(files[0].contains("sha256"));
  EXPECT_FALSE(files[1].contains("sha256"));
  verify_manifest(dir / "out");
}

TEST(AtomicDirectory, LeavesNothingUnlessCommitted) {
  TempDir dir;
  {
    fill(AtomicDirectory(dir / "a" / "b" / "out").path(), "abc");
  }
  EXPECT_EQ(dir.list(), Names{}) << "not even the parents it made";
  make(dir / "a" / "b" / "out", "abc");
  verify_manifest(dir / "a" / "b" / "out");
}

TEST(AtomicDirectory, FillsAnEmptyFolderAndRefusesAFullOne) {
  TempDir dir;
  fs::create_directory(dir / "out");
  make((dir / "out/").string(), "one");
  EXPECT_EQ(get(dir / "out" / "config.json"), "one");
  EXPECT_LIGER_ERROR(make(dir / "out", "two"), ErrorCode::kLocked, "out: is not empty");
  EXPECT_EQ(get(dir / "out" / "config.json"), "one");
  put(dir / "file", "x");
  EXPECT_LIGER_ERROR(make(dir / "file", "two"), ErrorCode::kLocked, "file: exists and is not a folder");
  EXPECT_EQ(dir.list(), (Names{"file", "out"}));
}

TEST(AtomicDirectory, OverwriteSwapsTheOldFolderOut) {
  TempDir dir;
  {
    AtomicDirectory folder(dir / "out");
    fill(folder.path(), "one");
    put(folder.path() / "extra", "x");
    folder.commit();
  }
  AtomicDirectory folder(dir / "out", true);
  fill(folder.path(), "two");
  EXPECT_EQ(get(dir / "out" / "config.json"), "one") << "until commit";
  folder.commit();
  EXPECT_EQ(get(dir / "out" / "config.json"), "two");
  EXPECT_FALSE(fs::exists(dir / "out" / "extra"));
  EXPECT_EQ(dir.list(), Names{"out"});
}

TEST(AtomicDirectory, OverwriteRefusesAFolderThatIsNotOurs) {
  TempDir dir;
  fs::create_directory(dir / "home");
  put(dir / "home" / "thesis", "x");
  EXPECT_LIGER_ERROR(make(dir / "home", "two", true), ErrorCode::kLocked, "home: was not written by liger");
  EXPECT_EQ(get(dir / "home" / "thesis"), "x");
  EXPECT_EQ(dir.list(), Names{"home"});
}

TEST(AtomicDirectory, OverwriteRefusesFilesThatAreNotOurs) {
  TempDir dir;
  make(dir / "out", "one");
  put(dir / "out" / "thesis", "x");
  EXPECT_LIGER_ERROR(make(dir / "out", "two", true), ErrorCode::kLocked, "thesis: MANIFEST.json does not list it");
  EXPECT_EQ(get(dir / "out" / "thesis"), "x");
  EXPECT_EQ(get(dir / "out" / "config.json"), "one");
  fs::create_directory(dir / "foreign");
  put(dir / "foreign" / "MANIFEST.json", R"({"name": "something else"})");
  EXPECT_LIGER_ERROR(make(dir / "foreign", "two", true), ErrorCode::kBadInput, "MANIFEST.json");
}

TEST(AtomicDirectory, ATargetFilledMeanwhileIsNotLost) {
  TempDir dir;
  AtomicDirectory folder(dir / "out");
  fill(folder.path(), "abc");
  fs::create_directory(dir / "out");
  put(dir / "out" / "x", "theirs");
  EXPECT_LIGER_ERROR(folder.commit(), ErrorCode::kLocked, "out: is not empty");
  EXPECT_EQ(get(dir / "out" / "x"), "theirs");
}

TEST(AtomicDirectory, WritesThroughALinkToAFolder) {
  TempDir dir;
  fs::create_directory(dir / "disk");
  fs::create_directory_symlink("disk", dir / "out");
  make(dir / "out", "one");
  EXPECT_TRUE(fs::is_symlink(dir / "out"));
  EXPECT_EQ(get(dir / "disk" / "config.json"), "one");
}

TEST(AtomicDirectory, NonsenseTargetsAreRefused) {
  EXPECT_LIGER_ERROR(AtomicDirectory("/"), ErrorCode::kUsage, "cannot be an output folder");
  EXPECT_LIGER_ERROR(AtomicDirectory("/proc/liger/out"), ErrorCode::kIo, "/proc/liger: cannot create");
  TempDir dir;
  put(dir / "file", "x");
  EXPECT_LIGER_ERROR(AtomicDirectory(dir / "file" / "out"), ErrorCode::kIo, "cannot");
  EXPECT_EQ(dir.list(), Names{"file"});
}

TEST(AtomicDirectory, TheSecondWriterLearnsWhoIsFirst) {
  TempDir dir;
  const AtomicDirectory first(dir / "out");
  EXPECT_LIGER_ERROR(AtomicDirectory(dir / "out"), ErrorCode::kLocked,
                     cat("out: process ", ::getpid(), " is writing it"));
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const AtomicDirectory other(dir / "other");
    (void)!::write(pipe[1], "x", 1);
    ::pause();
  }
  char byte;
  ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
  EXPECT_LIGER_ERROR(AtomicDirectory(dir / "other"), ErrorCode::kLocked, cat("process ", child, " is writing it"));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_GT(dir.list().size(), 2u) << "the killed process left its folder";
  make(dir / "other", "abc");
  EXPECT_EQ(dir.list(), (Names{".out.lock", cat(".out.tmp-", ::getpid()), "other"}));
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(AtomicDirectory, RemovesStaleFoldersOfItsOwnNameOnly) {
  TempDir dir;
  for (const char* name : {".out.tmp-1", ".out.tmp-x", ".out2.tmp-1", ".out.tmp-", "out.tmp-1"}) {
    fs::create_directories(dir / name / "deep");
    put(dir / name / "deep" / "file", "x");
  }
  make(dir / "out", "abc");
  EXPECT_EQ(dir.list(), (Names{".out.tmp-", ".out.tmp-x", ".out2.tmp-1", "out", "out.tmp-1"}));
}

TEST(AtomicDirectory, RecoversAllOfAFolder) {
  TempDir dir;
  for (const char* name : {".a.tmp-12", ".b.old-3", ".c.tmp-7", ".tmp-9", "d.tmp-4", ".e.tmp-", ".f.tmp-1x"}) {
    fs::create_directory(dir / name);
    put(dir / name / "text", name);
  }
  put(dir / ".g.lock", "123");
  AtomicDirectory living(dir / "c");
  detail::recover_all(dir.path());
  Names expected = {".c.lock", cat(".c.tmp-", ::getpid()), ".e.tmp-", ".f.tmp-1x", ".tmp-9", "b", "d.tmp-4"};
  EXPECT_EQ(dir.list(), expected);
  EXPECT_EQ(get(dir / "b" / "text"), ".b.old-3") << "nothing had taken its place";
}

TEST(AtomicDirectory, SwapsInTwoStepsWhereItMust) {
  TempDir dir;
  make(dir / "out", "one");
  make(dir / "new", "two");
  const fs::path old = detail::swap_folders(dir / "new", dir / "out", /*exchange=*/false);
  EXPECT_EQ(get(dir / "out" / "config.json"), "two");
  EXPECT_EQ(get(old / "config.json"), "one");
  fs::remove_all(dir / "out");  // as a kill between the two steps would leave it
  detail::recover_swap(dir / "out");
  EXPECT_EQ(get(dir / "out" / "config.json"), "one");
  EXPECT_EQ(dir.list(), Names{"out"});
  EXPECT_LIGER_ERROR(detail::swap_folders(dir / "none", dir / "out", false), ErrorCode::kIo, "cannot replace");
  EXPECT_EQ(get(dir / "out" / "config.json"), "one") << "put back";
}

TEST(AtomicDirectory, FullDiskLeavesNothing) {
  TempDir dir;
  void (*handler)(int) = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  for (const rlim_t size : {0, 3, 40}) {  // the lock's process id, a file, the manifest
    const struct rlimit limit = {size, old.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    EXPECT_LIGER_ERROR(make(dir / "out", "abcdefgh"), ErrorCode::kIo, ": cannot write: File too large");
    ::setrlimit(RLIMIT_FSIZE, &old);
    EXPECT_EQ(dir.list(), Names{}) << size;
  }
  ::signal(SIGXFSZ, handler);
}

TEST(AtomicDirectory, RefusesLinksAmongItsFiles) {
  TempDir dir;
  AtomicDirectory folder(dir / "out");
  fs::create_symlink("/etc/passwd", folder.path() / "x");
  EXPECT_LIGER_ERROR(folder.commit(), ErrorCode::kInternal, "only files and folders");
}

TEST(Manifest, NamesWhatDiffers) {
  TempDir dir;
  const fs::path out = dir / "out";
  make(out, "abc");
  put(out / "sub" / "weights", "abcabX");
  EXPECT_LIGER_ERROR(verify_manifest(out), ErrorCode::kBadInput, "weights: its sha256 differs");
  put(out / "sub" / "weights", "abcab");
  EXPECT_LIGER_ERROR(verify_manifest(out), ErrorCode::kBadInput, "weights: expected 6 bytes, got 5");
  fs::remove(out / "sub" / "weights");
  EXPECT_LIGER_ERROR(verify_manifest(out), ErrorCode::kBadInput, "weights: missing");
  fs::create_directory(out / "sub" / "weights");
  EXPECT_LIGER_ERROR(verify_manifest(out), ErrorCode::kBadInput, "weights: expected a file, got a directory");
}

TEST(Manifest, BadManifestsAreRefused) {
  TempDir dir;
  EXPECT_LIGER_ERROR(verify_manifest(dir.path()), ErrorCode::kIo, "MANIFEST.json: cannot open");
  const std::vector<std::pair<const char*, const char*>> corpus = {
      {"", "1:1: "},
      {"[]", "expected an object"},
      {"{\"version\": 1}", "array 'files'"},
      {"{\"version\": 1, \"files\": {}}", "array 'files'"},
      {"{\"version\": 2, \"files\": []}", "expected version 1"},
      {"{\"files\": []}", "expected version 1"},
      {"{\"version\": 1, \"files\": [3]}", "needs a path"},
      {"{\"version\": 1, \"files\": [{\"size\": 3}]}", "needs a path"},
      {"{\"version\": 1, \"files\": [{\"path\": \"a\"}]}", "needs a path"},
      {"{\"version\": 1, \"files\": [{\"path\": \"a\", \"size\": -3}]}", "needs a path"},
      {"{\"version\": 1, \"files\": [{\"path\": \"a\", \"size\": 3, \"sha256\": 3}]}", "needs a path"},
      {"{\"version\": 1, \"files\": [{\"path\": \"../a\", \"size\": 3}]}", "'../a' leads outside the folder"},
      {"{\"version\": 1, \"files\": [{\"path\": \"a/../../b\", \"size\": 3}]}", "leads outside"},
      {"{\"version\": 1, \"files\": [{\"path\": \"/etc/passwd\", \"size\": 3}]}", "leads outside"},
      {"{\"version\": 1, \"files\": [{\"path\": \"\", \"size\": 3}]}", "leads outside"}};
  for (const auto& [text, expected] : corpus) {
    put(dir / "MANIFEST.json", text);
    EXPECT_LIGER_ERROR(verify_manifest(dir.path()), ErrorCode::kBadInput, expected);
  }
}

}  // namespace
}  // namespace liger
