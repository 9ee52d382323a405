#include "liger/io/interrupt.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io_test_util.h"

namespace liger {
namespace {

/// Exit status of a child that runs `body`.
template <typename Body>
int status_of(Body&& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(Interrupt, FirstSignalSetsTheFlagSecondEnds) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const int status = status_of([&] {
      watch_for_interrupts();
      if (interrupted()) ::_exit(1);
      throw_if_interrupted();
      ::raise(signal);
      if (!interrupted()) ::_exit(2);
      try {
        throw_if_interrupted();
        ::_exit(3);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kCancelled || std::string(error.what()) != "interrupted") ::_exit(4);
      }
      ::raise(signal);
      ::_exit(5);
    });
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 130);
  }
}

TEST(Interrupt, WithoutWatchingASignalKills) {
  const int status = status_of([] { ::raise(SIGTERM); });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
  EXPECT_FALSE(interrupted());
}

TEST(Interrupt, AFileSizeLimitNoLongerKills) {
  EXPECT_EQ(status_of([] {
              watch_for_interrupts();
              ::raise(SIGXFSZ);
            }),
            0);
}

}  // namespace
}  // namespace liger
