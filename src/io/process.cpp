#include "liger/io/process.h"

#include <fstream>
#include <string>

namespace liger {
namespace {

int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::stoll(line.substr(key.size())) * 1024;
  }
  return 0;
}

}  // namespace

// Not getrusage's ru_maxrss, which a process inherits from the one that started it.
int64_t peak_memory_bytes() { return status_bytes("VmHWM:"); }
int64_t resident_memory_bytes() { return status_bytes("VmRSS:"); }

}  // namespace liger
