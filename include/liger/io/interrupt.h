#pragma once

namespace liger {

/// From here on SIGINT and SIGTERM only set a flag that long loops poll; a second signal ends the process at once
/// with exit code 130, which is safe at any moment.
void watch_for_interrupts();
bool interrupted();
/// Throws Error(kCancelled, "interrupted") if a signal has come: for loops that have nothing to save.
void throw_if_interrupted();

}  // namespace liger
