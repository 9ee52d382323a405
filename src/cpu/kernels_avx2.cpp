#define LIGER_LANES 32
#include "cpu/kernels_table.h"

namespace liger {
extern const CpuKernels kAvx2Kernels;
const CpuKernels kAvx2Kernels = kernels_named("avx2");
}  // namespace liger
