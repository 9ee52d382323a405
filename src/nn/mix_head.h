#pragma once

#include "cpu/kernels.h"
#include "nn/fused_mix.h"

namespace liger {

/// What a layer's settings make of key/value head `h`; the tokens, their rows and their type are left to the caller.
/// `scalars` as in MixInputs, contiguous; undefined: the defaults.
MixHead mix_head(const MixSettings& settings, int64_t h, int64_t kv_heads, int64_t group, int64_t D,
                 const at::Tensor& scalars = {});

}  // namespace liger
