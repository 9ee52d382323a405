#include "liger/io/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include "liger/error.h"

namespace liger {
namespace {

volatile sig_atomic_t signalled = 0;

void on_signal(int) {
  if (signalled != 0) _exit(130);
  signalled = 1;
}

}  // namespace

void watch_for_interrupts() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // not every read in every library expects to be broken off
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // A file-size limit then is a write error that names the file, and not the end of the process.
  ::signal(SIGXFSZ, SIG_IGN);
}

bool interrupted() { return signalled != 0; }

void throw_if_interrupted() {
  if (interrupted()) fail(ErrorCode::kCancelled, "interrupted");
}

}  // namespace liger
