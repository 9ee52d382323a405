#include "liger/core/tensor_memory.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <mutex>

#include "core/address_range.h"

namespace liger {
namespace {

constexpr size_t kLeastBytes = size_t{64} << 10;

class TensorMemory : public c10::Allocator {
 public:
  TensorMemory(char* begin, size_t size) : range_(begin, size), small_(c10::GetDefaultCPUAllocator()) { self_ = this; }

  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes < kLeastBytes ? nullptr : take(bytes);
    if (data == nullptr) data = small_->raw_allocate(bytes);
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    return range_.take(bytes);
  }
  static void release(void* data) {
    {
      const std::lock_guard lock(self_->mutex_);
      if (self_->range_.give_back(static_cast<char*>(data))) return;
    }
    self_->small_->raw_deallocate(data);
  }

  std::mutex mutex_;
  AddressRange range_;
  c10::Allocator* small_;
  static TensorMemory* self_;
};

TensorMemory* TensorMemory::self_ = nullptr;

}  // namespace

void keep_tensor_memory() {
  // Addresses alone: pages come when they are first written. More than all memory is of no use.
  const size_t size = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE)) * 2;
  void* begin = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (begin == MAP_FAILED) return;
  static TensorMemory& memory = *new TensorMemory(static_cast<char*>(begin), size);  // outlives every tensor
  c10::SetCPUAllocator(&memory, /*priority=*/1);
  // The kernels' scratch comes and goes in malloc's memory, and is to stay there too.
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

}  // namespace liger
