#include "device.h"
#include "launch.h"
#include "liger_kernels.h"
#include "rows.cuh"

namespace liger::kernels {

bool compiled_with_cuda() { return true; }

int multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  return count;
}

const char* device_refuses(int device) {
  int capability = 0, shared = 0;
  if (cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    return "the device does not answer";
  if (capability >= 8 && shared >= kSharedLimit) return nullptr;
  thread_local char text[160];
  snprintf(text, sizeof text,
           "the device has compute capability %d.x and %d KiB of shared memory to a block; the kernels need 8.0 and %d",
           capability, shared / 1024, kSharedLimit / 1024);
  return text;
}

}  // namespace liger::kernels
