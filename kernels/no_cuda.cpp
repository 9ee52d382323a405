// What liger_kernels.h says where no CUDA compiler was at hand.
#include "liger_kernels.h"

namespace liger::kernels {

bool compiled_with_cuda() { return false; }
bool diagonal_scan_fwd_supports(int64_t) { return false; }
const char* diagonal_scan_fwd(const DiagonalScanForward&, void*) {
  return "this build has no CUDA kernels; configure with -DLIGER_CUDA=ON";
}

}  // namespace liger::kernels
