#include "device.h"
#include "launch.h"
#include "liger_kernels.h"
#include "rows.cuh"

namespace liger::kernels {

bool compiled_with_cuda() { return true; }

namespace {

bool worked(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();  // or whoever asks next would find it
  return error == cudaSuccess;
}

}  // namespace

int multiprocessors() {
  int device = 0, count = 0;
  const bool known =
      worked(cudaGetDevice(&device)) && worked(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return known ? count : 0;
}

const char* device_refuses(int device) {
  int capability = 0, shared = 0;
  if (!worked(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device)) ||
      !worked(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)))
    return "the device does not answer";
  if (capability >= 8 && shared >= kSharedLimit) return nullptr;
  thread_local char text[160];
  snprintf(text, sizeof text,
           "the device has compute capability %d.x and %d KiB of shared memory to a block; the kernels need 8.0 and %d",
           capability, shared / 1024, kSharedLimit / 1024);
  return text;
}

}  // namespace liger::kernels
