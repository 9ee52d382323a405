#include "timing.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace liger::benchmarks {

namespace {

void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  Event(const Event&) = delete;
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  ~Event() {
    if (event_) cudaEventDestroy(event_);
  }
  void record() { check(cudaEventRecord(event_, nullptr), "cudaEventRecord"); }
  double ms_until(const Event& end) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, event_, end.event_), "cudaEventElapsedTime");
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(type).device(at::kCUDA); }

}  // namespace

Gpu current_gpu() {
  int device = 0;
  check(cudaGetDevice(&device), "no CUDA device");
  cudaDeviceProp p = {};
  check(cudaGetDeviceProperties(&p, device), "no CUDA device");
  Gpu out = {.name = p.name,
             .major = p.major,
             .minor = p.minor,
             .multiprocessors = p.multiProcessorCount,
             .l2_bytes = p.l2CacheSize,
             .memory_bytes = static_cast<int64_t>(p.totalGlobalMem)};
  const double khz = attribute(cudaDevAttrMemoryClockRate, device);
  out.nominal_bandwidth = 2 * khz * 1e3 * attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8;  // two bits a clock
  check(cudaDriverGetVersion(&out.driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&out.runtime), "cudaRuntimeGetVersion");
  return out;
}

Time time_of(const Gpu& gpu, const std::function<void()>& launch) {
  constexpr int kWarmUp = 3, kRuns = 31;
  const int64_t bytes = std::max<int64_t>(4 * gpu.l2_bytes, int64_t{256} << 20);
  const at::Tensor other = at::empty({bytes}, on_gpu(at::kByte));
  std::vector<Event> begins(kRuns), ends(kRuns);
  for (int run = -kWarmUp; run < kRuns; ++run) {
    check(cudaMemsetAsync(other.mutable_data_ptr(), run & 0xff, other.nbytes(), nullptr), "cudaMemsetAsync");
    if (run >= 0) begins[run].record();
    launch();
    if (run >= 0) ends[run].record();
  }
  check(cudaDeviceSynchronize(), "the kernel");
  std::vector<double> ms;
  for (int run = 0; run < kRuns; ++run) ms.push_back(begins[run].ms_until(ends[run]));
  std::sort(ms.begin(), ms.end());
  return {ms[kRuns / 2], ms.front(), ms.back(), kRuns};
}

Peaks measure_peaks(const Gpu& gpu) {
  Peaks out;
  {
    constexpr int64_t kBytes = int64_t{2} << 30;
    const at::Tensor from = at::empty({kBytes}, on_gpu(at::kByte)), to = at::empty_like(from);
    const Time time = time_of(gpu, [&] {
      check(cudaMemcpyAsync(to.mutable_data_ptr(), from.const_data_ptr(), kBytes, cudaMemcpyDeviceToDevice, nullptr),
            "cudaMemcpyAsync");
    });
    out.bandwidth = 2 * kBytes / (time.median_ms * 1e-3);
  }
  {
    constexpr int64_t n = 8192;
    const at::Tensor a = at::randn({n, n}, on_gpu(at::kBFloat16)), b = at::randn_like(a);
    at::Tensor c = at::empty_like(a);
    const Time time = time_of(gpu, [&] { at::mm_out(c, a, b); });
    out.tensor = 2.0 * n * n * n / (time.median_ms * 1e-3);
  }
  return out;
}

}  // namespace liger::benchmarks
