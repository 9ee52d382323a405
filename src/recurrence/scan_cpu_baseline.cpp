#define LIGER_LANES 16
#include "recurrence/scan_cpu_kernel.h"

namespace liger {
const ScanKernels kScanBaseline = {"baseline", forward<float>, forward<double>, backward<float>, backward<double>};
}
