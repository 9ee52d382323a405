// Compiled with -mavx2 -mfma where the compiler has them; used only on processors that do.
#define LIGER_LANES 32
#include "recurrence/scan_cpu_kernel.h"

namespace liger {
const ScanKernels kScanAvx2 = {"avx2", forward<float>, forward<double>, backward<float>, backward<double>};
}
