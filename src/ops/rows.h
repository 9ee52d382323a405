#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "cpu/kernels.h"

namespace liger {

/// Whether the CPU's kernels take these: dense tensors on the CPU of a type they know.
bool takes_rows(const at::Tensor& x);
/// Throws Error for a type that they do not know.
Element element_of(at::ScalarType type);
/// "silu", "gelu" or "gelu_pytorch_tanh". Throws Error on another name.
GateActivation activation_named(const std::string& name);

/// Calls body(first, count) for blocks of rows on all threads. The blocks depend on `rows` alone, so that what is
/// summed by block comes out the same for any number of threads.
void for_row_blocks(int64_t rows, const std::function<void(int64_t block, int64_t first, int64_t count)>& body);
int64_t row_blocks(int64_t rows);

}  // namespace liger
