#pragma once

#include "liger/recurrence/recurrence.h"

namespace liger {

// The ways to run a scan: see gated_scan. Inputs are checked, the state is defined.
ScanOutputs scan_reference(const ScanInputs& in);
ScanOutputs scan_chunked(const ScanInputs& in);
ScanOutputs scan_fused(const ScanInputs& in);

}  // namespace liger
