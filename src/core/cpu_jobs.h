#pragma once

#include <cstdint>
#include <functional>

namespace liger {

/// Calls body(job, scratch) for every job of 0 .. count - 1, on torch's threads, a free thread taking the next one.
/// `scratch` is `scratch_bytes(job)` bytes, aligned to 64 and zeroed, for that call alone.
void run_jobs(int64_t count, const std::function<int64_t(int64_t)>& scratch_bytes,
              const std::function<void(int64_t, void*)>& body);

}  // namespace liger
