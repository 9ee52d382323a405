#define LIGER_LANES 16
#include "cpu/kernels_table.h"

namespace liger {
extern const CpuKernels kBaselineKernels;
const CpuKernels kBaselineKernels = kernels_named("baseline");
}  // namespace liger
