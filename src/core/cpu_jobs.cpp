#include "core/cpu_jobs.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <queue>

#ifndef _OPENMP
#error "compile this file for OpenMP"
#endif

namespace liger {
namespace {

class Scratch {
 public:
  void* zeroed(int64_t bytes) {
    const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 64) + 63) / 64 * 64;
    if (size > size_) {
      memory_.reset(std::aligned_alloc(64, size));
      if (!memory_) throw std::bad_alloc();
      size_ = size;
    }
    return std::memset(memory_.get(), 0, size);
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

}  // namespace

void run_jobs(int64_t count, const std::function<int64_t(int64_t)>& scratch_bytes,
              const std::function<void(int64_t, void*)>& body) {
  std::atomic<int64_t> next = 0;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr error;
#pragma omp parallel if (count > 1)
  {
    Scratch scratch;
    try {
      for (int64_t job = next++; job < count; job = next++) body(job, scratch.zeroed(scratch_bytes(job)));
    } catch (...) {
      if (!failed.test_and_set()) error = std::current_exception();
      next = count;
    }
  }
  if (error) std::rethrow_exception(error);
}

int64_t job_threads() { return omp_get_max_threads(); }

namespace {

std::vector<HeadsJob> cut(const std::vector<int64_t>& lengths, int64_t heads, int64_t together) {
  std::vector<HeadsJob> jobs;
  for (int64_t s = 0; s < std::ssize(lengths); ++s) {
    const int64_t parts = (heads + together - 1) / together;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = heads * part / parts;
      jobs.push_back({s, first, heads * (part + 1) / parts - first});
    }
  }
  const auto work = [&](const HeadsJob& job) { return lengths[job.sequence] * job.count; };
  std::stable_sort(jobs.begin(), jobs.end(), [&](const auto& a, const auto& b) { return work(a) > work(b); });
  return jobs;
}

// When the last thread is done, if a free one always takes the next job.
int64_t finish(const std::vector<HeadsJob>& jobs, const std::vector<int64_t>& lengths, int64_t threads) {
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> busy_until;
  for (int64_t t = 0; t < threads; ++t) busy_until.push(0);
  int64_t last = 0;
  for (const HeadsJob& job : jobs) {
    const int64_t end = busy_until.top() + lengths[job.sequence] * job.count;
    busy_until.pop();
    busy_until.push(end);
    last = std::max(last, end);
  }
  return last;
}

}  // namespace

std::vector<HeadsJob> cut_into_jobs(const std::vector<int64_t>& lengths, int64_t heads, int64_t threads,
                                    int64_t bytes_a_head) {
  std::vector<HeadsJob> alone = cut(lengths, heads, 1);
  if (bytes_a_head > 512 * 1024) return alone;
  const int64_t best = finish(alone, lengths, threads);
  for (const int64_t together : {4, 3, 2}) {
    std::vector<HeadsJob> jobs = cut(lengths, heads, together);
    if (finish(jobs, lengths, threads) <= best + best / 16) return jobs;
  }
  return alone;
}

void detail::run_team(void (*call)(const void*, int64_t, int64_t), const void* body) {
  if (omp_get_max_threads() == 1) return call(body, 0, 1);  // a team of one would be allocated anew each time
#pragma omp parallel
  call(body, omp_get_thread_num(), omp_get_num_threads());
}

void team_barrier() {
#pragma omp barrier
}

}  // namespace liger
