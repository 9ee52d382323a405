#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace liger {

// Work on torch's own threads. LibTorch's parallel_for runs one thread in a file that is not compiled for OpenMP, so
// this is the only place that calls for threads; cpu_jobs.cpp is compiled so.

/// Calls body(job, scratch) for every job of 0 .. count - 1, a free thread taking the next one. `scratch` has
/// `scratch_bytes(job)` bytes, aligned to 64 and zeroed, for that call alone. What a body throws is thrown here.
void run_jobs(int64_t count, const std::function<int64_t(int64_t)>& scratch_bytes,
              const std::function<void(int64_t, void*)>& body);

/// Threads that run_jobs() uses.
int64_t job_threads();

/// Heads first .. first + count - 1 of a sequence.
struct HeadsJob {
  int64_t sequence, first, count;
};
/// Cuts sequences of `lengths` tokens, each with as many heads, into jobs of up to four heads, the longest first: as
/// many together as keep the threads equally busy, since heads of a token lie side by side in memory. Heads that work
/// with more than 512 KB of their own stay alone: they would push each other out of the cache.
std::vector<HeadsJob> cut_into_jobs(const std::vector<int64_t>& lengths, int64_t heads, int64_t threads,
                                    int64_t bytes_a_head = 0);

/// Runs a kernel of cpu/kernels.h over all heads of all sequences, given head(sequence, h) and pass(sequence, h).
template <typename Head, typename Pass, typename MakeHead, typename MakePass>
void run_heads(const std::vector<int64_t>& lengths, int64_t heads, int64_t (*scratch_bytes)(const Head&, int64_t),
               void (*kernel)(const Head*, const Pass*, int64_t, void*), const MakeHead& head, const MakePass& pass) {
  if (lengths.empty() || heads == 0) return;
  const int64_t longest = std::max_element(lengths.begin(), lengths.end()) - lengths.begin();
  const Head example = head(longest, 0);
  const std::vector<HeadsJob> jobs =
      cut_into_jobs(lengths, heads, job_threads(), scratch_bytes(example, 2) - scratch_bytes(example, 1));
  const auto scratch = [&](int64_t job) {
    return scratch_bytes(head(jobs[job].sequence, jobs[job].first), jobs[job].count);
  };
  run_jobs(static_cast<int64_t>(jobs.size()), scratch, [&](int64_t job, void* memory) {
    std::vector<Head> these;
    std::vector<Pass> passes;
    for (int64_t h = jobs[job].first; h < jobs[job].first + jobs[job].count; ++h) {
      these.push_back(head(jobs[job].sequence, h));
      passes.push_back(pass(jobs[job].sequence, h));
    }
    kernel(these.data(), passes.data(), jobs[job].count, memory);
  });
}

/// Runs body(member, members) once on each thread, at the same time. Bodies may wait for each other with
/// team_barrier(), which all must call equally often; they may not throw.
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
