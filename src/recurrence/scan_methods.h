#pragma once

#include "liger/recurrence/recurrence.h"

namespace liger {

// The ways to run a scan: see gated_scan. Inputs are checked, the state is defined.
ScanOutputs scan_reference(const ScanInputs& in);
ScanOutputs scan_chunked(const ScanInputs& in);
ScanOutputs scan_fused(const ScanInputs& in);
ScanOutputs scan_cuda(const ScanInputs& in);  // no gradient

/// Whether the CUDA kernels of this build can run these inputs.
bool cuda_kernel_runs(const ScanInputs& in);
/// Whether a backward pass may be asked of the outputs.
bool wants_gradient(const ScanInputs& in);

}  // namespace liger
