#pragma once

#include "liger/recurrence/recurrence.h"

namespace liger {

// One file each; registry.cpp lists them.
extern const Recurrence kGla;

// The ways to run a diagonal scan: see diagonal_scan. Inputs are checked, the state is defined.
ScanOutputs diagonal_scan_reference(const ScanInputs& in);
ScanOutputs diagonal_scan_chunked(const ScanInputs& in);
ScanOutputs diagonal_scan_fused(const ScanInputs& in);
ScanOutputs diagonal_scan_cuda(const ScanInputs& in);  // no gradient

/// Whether the CUDA kernels of this build can run these inputs.
bool cuda_kernel_runs(const ScanInputs& in);
/// Whether a backward pass may be asked of the outputs.
bool wants_gradient(const ScanInputs& in);

}  // namespace liger
