// What the kernels' headers say where no CUDA compiler was at hand.
#include "diagonal_scan.h"

namespace liger::kernels {

namespace {
constexpr const char* kReason = "this build has no CUDA kernels; configure with -DLIGER_CUDA=ON";
}

bool compiled_with_cuda() { return false; }
const char* diagonal_scan_fwd_refuses(const DiagonalScanForward&) { return kReason; }
const char* diagonal_scan_fwd(const DiagonalScanForward& args, void*) { return diagonal_scan_fwd_refuses(args); }

void plan_parts(DiagonalScan&, int64_t, int) {}
const char* diagonal_scan_rows_refuses(const DiagonalScanRows&) { return kReason; }
const char* diagonal_scan_rows(const DiagonalScanRows&, void*) { return kReason; }
const char* diagonal_scan_bwd_refuses(const DiagonalScanBackward&) { return kReason; }
int64_t diagonal_scan_bwd_workspace(const DiagonalScanBackward&) { return 0; }
const char* diagonal_scan_bwd(const DiagonalScanBackward&, void*) { return kReason; }

}  // namespace liger::kernels
