// What the kernels' headers say where no CUDA compiler was at hand.
#include "diagonal_scan.h"

namespace liger::kernels {

namespace {
constexpr const char* kReason = "this build has no CUDA kernels; configure with -DLIGER_CUDA=ON";
}

bool compiled_with_cuda() { return false; }
const char* diagonal_scan_fwd_refuses(const DiagonalScanForward&) { return kReason; }
const char* diagonal_scan_fwd(const DiagonalScanForward& args, void*) { return diagonal_scan_fwd_refuses(args); }

}  // namespace liger::kernels
