#define LIGER_LANES 64
#include "cpu/kernels_table.h"

namespace liger {
extern const CpuKernels kAvx512Kernels;
const CpuKernels kAvx512Kernels = kernels_named("avx512");
}  // namespace liger
