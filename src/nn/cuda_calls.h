#pragma once

#include <ATen/core/Tensor.h>

#include "liger/recurrence/recurrence.h"
#include "liger_kernels.h"

namespace liger {

/// What a call of a CUDA kernel needs of LibTorch.
kernels::Type kernel_type(at::ScalarType type);
bool kernel_reads(at::ScalarType type);
/// The current stream of the tensor's device; nullptr on the CPU, where tests run the kernels.
void* kernel_stream(const at::Tensor& x);
/// Throws Error(kInternal) with `what` the kernel says, if it says anything.
void check_kernel(const char* what, const at::Tensor& x);

/// What the kernels make of a structure's raw projections.
kernels::Features kernel_features(const LayerRecurrence& layer, int64_t kv_heads, at::Device device);

}  // namespace liger
