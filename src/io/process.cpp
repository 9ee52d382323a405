#include "liger/io/process.h"

#include <fstream>
#include <string>

namespace liger {

// Not getrusage's ru_maxrss, which a process inherits from the one that started it.
int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

}  // namespace liger
