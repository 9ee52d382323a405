#pragma once

#include "nn/fused_mix.h"

namespace liger {

/// The definition of fused_mix() in torch operators: any device, differentiable as often as asked, token by token where
/// `method` has no faster form of the structure.
MixOutputs reference_mix(const MixSettings& settings, const MixInputs& in, ScanMethod method = ScanMethod::kReference);
at::Tensor reference_mix(const MixSettings& settings, const MixInputs& in, const std::vector<int64_t>& past,
                         LayerState& state, ScanMethod method = ScanMethod::kReference);

}  // namespace liger
