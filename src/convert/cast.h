#pragma once

#include <cstddef>
#include <cstdint>

#include "liger/io/safetensors.h"

namespace liger {

/// Converts n elements of F64, F32, BF16 or F16 to F32, BF16 or F16, rounding to nearest, ties to
/// even; F64 goes through float32, as in torch. NaN stays NaN.
/// `in` and `out` are aligned to their element and do not overlap.
/// Returns how many finite elements became infinite.
int64_t cast(Dtype from, const std::byte* in, Dtype to, std::byte* out, int64_t n);

}  // namespace liger
