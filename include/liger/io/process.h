#pragma once

#include <cstdint>

namespace liger {

/// The most memory this process has had resident (VmHWM), in bytes; 0 where the system does not say.
int64_t peak_memory_bytes();
/// What it has resident now (VmRSS).
int64_t resident_memory_bytes();

}  // namespace liger
