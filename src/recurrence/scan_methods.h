#pragma once

#include <optional>

#include "liger/recurrence/recurrence.h"

namespace liger {

// The ways to run a scan: see gated_scan. Inputs are checked, the state is defined.
ScanOutputs scan_reference(const ScanInputs& in);
ScanOutputs scan_chunked(const ScanInputs& in);
ScanOutputs scan_fused(const ScanInputs& in);
ScanOutputs scan_cuda(const ScanInputs& in);  // no gradient

/// Whether the CUDA kernels of this build can run these inputs.
bool cuda_kernel_runs(const ScanInputs& in);
/// A structure from raw projections by one CUDA kernel, any of its types; nothing where that cannot run it.
std::optional<RecurrenceOutputs> recurrence_cuda(const LayerRecurrence& layer, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const at::Tensor& state);
/// Whether a backward pass may be asked of the outputs.
bool wants_gradient(const ScanInputs& in);

}  // namespace liger
