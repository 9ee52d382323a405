#include "core/cpu_jobs.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

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
  const int64_t threads = std::min<int64_t>(count, at::get_num_threads());
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t job = next++; job < count; job = next++) body(job, scratch.zeroed(scratch_bytes(job)));
  });
}

}  // namespace liger
