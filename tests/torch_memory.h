#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace liger::test {

/// Counts what this thread's tensors on the CPU take while it exists, from what there was at its begin.
class TorchMemory {
 public:
  int64_t live() const { return info_->live; }
  int64_t peak() const { return info_->peak; }

 private:
  struct Info : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
      live += bytes;
      peak = std::max(peak, live);
    }
    void reportOutOfMemory(int64_t, size_t, size_t, c10::Device) override {}
    bool memoryProfilingEnabled() const override { return true; }
    int64_t live = 0, peak = 0;
  };
  std::shared_ptr<Info> info_ = std::make_shared<Info>();
  c10::DebugInfoGuard guard_{c10::DebugInfoKind::PROFILER_STATE, info_};
};

}  // namespace liger::test
