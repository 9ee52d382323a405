#include "launch.h"
#include "liger_kernels.h"

namespace liger::kernels {

bool compiled_with_cuda() { return true; }

int multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  return count;
}

}  // namespace liger::kernels
