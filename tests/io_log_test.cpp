#include "liger/io/log.h"

#include <pty.h>
#include <stdlib.h>
#include <unistd.h>

#include <regex>

#include "io_test_util.h"
#include "liger/io/json.h"

namespace liger {
namespace {

using test::get;
using test::TempDir;

/// What `body` writes to stderr, when that is a file.
template <typename Body>
std::string stderr_of(Body&& body) {
  TempDir dir;
  const int saved = ::dup(STDERR_FILENO);
  EXPECT_NE(::freopen((dir / "log").c_str(), "w", stderr), nullptr);
  body();
  ::fflush(stderr);
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  configure_log(LogLevel::kInfo);
  return get(dir / "log");
}

/// What it writes when stderr is a terminal of this width.
template <typename Body>
std::string terminal_of(unsigned short columns, Body&& body) {
  int master = -1, slave = -1;
  struct winsize size = {24, columns, 0, 0};
  EXPECT_EQ(::openpty(&master, &slave, nullptr, nullptr, &size), 0);
  const int saved = ::dup(STDERR_FILENO);
  ::setenv("TERM", "xterm", 1);
  ::dup2(slave, STDERR_FILENO);
  configure_log(LogLevel::kInfo);
  body();
  ::fflush(stderr);
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  ::close(slave);
  std::string out(65536, '\0');
  size_t done = 0;
  for (ssize_t got = 0; (got = ::read(master, out.data() + done, out.size() - done)) > 0;)
    done += static_cast<size_t>(got);
  ::close(master);
  configure_log(LogLevel::kInfo);
  return out.substr(0, done);
}

TEST(Log, TextLinesHaveTimeAndLevel) {
  const std::string out = stderr_of([] {
    configure_log(LogLevel::kInfo);
    log_debug("hidden");
    log_info("loading {} %s");
    log_warning("careful");
    log(LogLevel::kError, "bad");
  });
  const std::regex expected(
      "\\d\\d:\\d\\d:\\d\\d info    loading \\{\\} %s\n"
      "\\d\\d:\\d\\d:\\d\\d warning careful\n"
      "\\d\\d:\\d\\d:\\d\\d error   bad\n");
  EXPECT_TRUE(std::regex_match(out, expected)) << out;
}

TEST(Log, LevelsFilter) {
  EXPECT_NE(stderr_of([] {
              configure_log(LogLevel::kDebug);
              log_debug("shown");
            }).find("debug   shown"),
            std::string::npos);
  EXPECT_EQ(stderr_of([] {
              configure_log(LogLevel::kError);
              log_warning("hidden");
            }),
            "");
}

TEST(Log, JsonLinesAreJson) {
  const std::string out = stderr_of([] {
    configure_log(LogLevel::kInfo, LogFormat::kJson);
    log_warning("a \"quoted\"\nline \xff");
    Progress progress("train", 10, 0);
    progress.update(5);
  });
  const size_t newline = out.find('\n');
  const Json line = parse_json(out.substr(0, newline), "log");
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["message"], "a \"quoted\"\nline \uFFFD");
  EXPECT_TRUE(std::regex_match(line["time"].get<std::string>(),
                               std::regex("\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z")));
  EXPECT_EQ(parse_json(out.substr(newline + 1), "log")["message"].get<std::string>().find("train: 50% (5/10), "), 0u);
}

TEST(Progress, PlainLinesWithoutATerminal) {
  const std::string out = stderr_of([] {
    configure_log(LogLevel::kInfo);
    Progress progress("convert", 200, 0);
    progress.update(50, "2 GB/s");
    progress.finish("done");
    progress.finish("twice");
  });
  EXPECT_NE(out.find("convert: 25% (50/200), 0:00 left, 2 GB/s\n"), std::string::npos) << out;
  EXPECT_NE(out.find("convert: 25% (50/200), 0:00, done\n"), std::string::npos) << out;
  EXPECT_EQ(out.find("twice"), std::string::npos) << out;
  EXPECT_EQ(out.find('\033'), std::string::npos) << out;
}

TEST(Progress, UnknownTotalAndInterval) {
  const std::string out = stderr_of([] {
    configure_log(LogLevel::kInfo);
    Progress progress("read", 0, 1000);
    for (int i = 0; i < 100; ++i) progress.update(i);
    progress.finish();
  });
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 1) << out;
  EXPECT_NE(out.find("read: 99, 0:00\n"), std::string::npos) << out;
}

TEST(Progress, SilentWhenQuiet) {
  EXPECT_EQ(stderr_of([] {
              configure_log(LogLevel::kWarning);
              Progress progress("convert", 10, 0);
              progress.update(5);
              progress.finish();
            }),
            "");
}

TEST(Progress, DrawsABarOnATerminal) {
  const std::string out = terminal_of(60, [] {
    Progress progress("train", 4, 10);
    progress.update(1);
    ::usleep(120'000);
    progress.update(2, "loss 1.25");
    log_info("saved");
    progress.finish("a note that is much too long for a terminal of sixty columns");
  });
  EXPECT_NE(out.find("\rtrain 50% [============            ] 0:00 left  loss 1.25\033[K"), std::string::npos) << out;
  EXPECT_NE(out.find("\r\033[K"), std::string::npos) << "a log line takes the bar's place";
  EXPECT_TRUE(out.ends_with("\r\n")) << out;
  const size_t last = out.rfind("\rtrain");
  EXPECT_LE(out.find("\033[K", last) - last, 60u) << out;
}

TEST(Progress, ABarMakesRoomForItsNote) {
  const std::string note = "loss 1.2345, 5321 tokens/s, 17.90 GB";
  const auto drawn = [&](unsigned short columns) {
    const std::string out = terminal_of(columns, [&] {
      Progress progress("training", 4, 10, 2);
      ::usleep(120'000);
      progress.update(3, note + ", lr 1.00e-03");
    });
    const size_t begin = out.find("\rtraining") + 1;
    return out.substr(begin, out.find("\033[K", begin) - begin);
  };
  EXPECT_EQ(drawn(80), "training 75% [======  ] 0:00 left  " + note + ", lr 1.0");
  EXPECT_EQ(drawn(100), "training 75% [=================      ] 0:00 left  " + note + ", lr 1.00e-03");
  EXPECT_EQ(drawn(40), "training 75% [======  ] 0:00 left  loss");
}

TEST(Progress, TheTimeLeftIsThatOfTheWorkDoneHere) {
  const std::string out = stderr_of([] {
    Progress progress("train", 1000, 0, 990);
    ::usleep(1'100'000);
    progress.update(991);
  });
  EXPECT_NE(out.find("train: 99% (991/1000), "), std::string::npos) << out;
  EXPECT_EQ(out.find("0:00 left"), std::string::npos) << "9 updates of more than a second each: " << out;
}

TEST(Progress, AnUnfinishedBarEndsItsLine) {
  const std::string out = terminal_of(80, [] {
    Progress progress("load", 0, 10);
    ::usleep(120'000);
    progress.update(7);
  });
  EXPECT_NE(out.find("\rload 7 0:00 so far\033[K\r\n"), std::string::npos) << out;
}

TEST(Log, ColoursOnlyWhereWanted) {
  ::unsetenv("NO_COLOR");
  EXPECT_NE(terminal_of(80, [] { log_warning("x"); }).find("\033["), std::string::npos);
  ::setenv("NO_COLOR", "1", 1);
  EXPECT_EQ(terminal_of(80, [] { log_warning("x"); }).find("\033["), std::string::npos);
  ::unsetenv("NO_COLOR");
  EXPECT_EQ(stderr_of([] { log_warning("x"); }).find("\033["), std::string::npos);
}

}  // namespace
}  // namespace liger
