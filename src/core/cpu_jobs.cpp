#include "core/cpu_jobs.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

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

int64_t heads_per_job(int64_t sequences, int64_t heads) {
  const int64_t most = std::clamp<int64_t>(sequences * heads / omp_get_max_threads(), 1, 4);
  const int64_t jobs = (heads + most - 1) / most;
  return (heads + jobs - 1) / jobs;
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
