// What liger_kernels.h says where no CUDA compiler was at hand.
#include "liger_kernels.h"

namespace liger::kernels {

bool compiled_with_cuda() { return false; }
const char* diagonal_scan_fwd_refuses(const DiagonalScanForward&) {
  return "this build has no CUDA kernels; configure with -DLIGER_CUDA=ON";
}
const char* diagonal_scan_fwd(const DiagonalScanForward& args, void*) { return diagonal_scan_fwd_refuses(args); }

}  // namespace liger::kernels
