// What the kernels' headers say where no CUDA compiler was at hand.
#include "decode_choices.h"
#include "decode_step.h"
#include "delta_scan.h"
#include "device.h"
#include "diagonal_scan.h"
#include "window_attention.h"

namespace liger::kernels {

namespace {
constexpr const char* kReason = "this build has no CUDA kernels; configure with -DLIGER_CUDA=ON";
}

bool compiled_with_cuda() { return false; }
int multiprocessors() { return 0; }
const char* device_refuses(int) { return kReason; }

void plan_parts(DiagonalScan&, int64_t, int) {}
const char* diagonal_scan_fwd_refuses(const DiagonalScanForward&) { return kReason; }
const char* diagonal_scan_fwd(const DiagonalScanForward&, void*) { return kReason; }
const char* diagonal_scan_rows_refuses(const DiagonalScanRows&) { return kReason; }
const char* diagonal_scan_rows(const DiagonalScanRows&, void*) { return kReason; }
const char* diagonal_scan_bwd_refuses(const DiagonalScanBackward&) { return kReason; }
int64_t diagonal_scan_bwd_workspace(const DiagonalScanBackward&) { return 0; }
const char* diagonal_scan_bwd(const DiagonalScanBackward&, void*) { return kReason; }

const char* delta_scan_fwd_refuses(const DeltaScanForward&) { return kReason; }
const char* delta_scan_fwd(const DeltaScanForward&, void*) { return kReason; }
const char* delta_scan_bwd_values_refuses(const DeltaScanBackwardValues&) { return kReason; }
const char* delta_scan_bwd_values(const DeltaScanBackwardValues&, void*) { return kReason; }

const char* window_attention_fwd_refuses(const WindowAttentionForward&) { return kReason; }
const char* window_attention_fwd(const WindowAttentionForward&, void*) { return kReason; }
const char* window_attention_bwd_refuses(const WindowAttentionBackward&) { return kReason; }
int64_t window_attention_bwd_workspace(const WindowAttentionBackward&) { return 0; }
const char* window_attention_bwd(const WindowAttentionBackward&, void*) { return kReason; }
const char* window_remember_refuses(const WindowRemember&) { return kReason; }
const char* window_remember(const WindowRemember&, void*) { return kReason; }

const char* decode_choices_refuses(const DecodeChoices&) { return kReason; }
const char* decode_choices(const DecodeChoices&, void*) { return kReason; }

const char* decode_step_refuses(const DecodeStep&) { return kReason; }
const char* decode_step(const DecodeStep&, void*) { return kReason; }
const char* decode_advance(int64_t*, int64_t, void*) { return kReason; }

}  // namespace liger::kernels
