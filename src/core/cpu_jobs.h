#pragma once

#include <cstdint>
#include <functional>

namespace liger {

// Work on torch's own threads. LibTorch's parallel_for runs one thread in a file that is not compiled for OpenMP, so
// this is the only place that calls for threads; cpu_jobs.cpp is compiled so.

/// Calls body(job, scratch) for every job of 0 .. count - 1, a free thread taking the next one. `scratch` has
/// `scratch_bytes(job)` bytes, aligned to 64 and zeroed, for that call alone. What a body throws is thrown here.
void run_jobs(int64_t count, const std::function<int64_t(int64_t)>& scratch_bytes,
              const std::function<void(int64_t, void*)>& body);

/// How many of the `heads` of each of `sequences` one job takes, so that every thread has work: up to four.
int64_t heads_per_job(int64_t sequences, int64_t heads);

/// Runs body(member, members) once on each thread, at the same time. Bodies may wait for each other with team_barrier(),
/// which all must call equally often; they may not throw.
template <typename Body>
void run_team(const Body& body);
void team_barrier();

namespace detail {
void run_team(void (*call)(const void*, int64_t, int64_t), const void* body);
}
template <typename Body>
void run_team(const Body& body) {
  detail::run_team(
      [](const void* self, int64_t member, int64_t members) { (*static_cast<const Body*>(self))(member, members); },
      &body);
}

}  // namespace liger
