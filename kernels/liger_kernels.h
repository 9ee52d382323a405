#pragma once

// The CUDA side of liger: raw pointers, sizes and a stream. Includes nothing of torch, nor of the rest of liger.
namespace liger::kernels {

/// True if this library was compiled with nvcc.
bool compiled_with_cuda();

}  // namespace liger::kernels
