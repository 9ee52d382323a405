#pragma once

#include <string>

#include "nn/cuda_window.h"
#include "nn/fused_mix.h"

namespace liger {

/// Layers that chose what the paper's do not have (features, rotation, normalizer, a state beyond the window, numbers
/// of heads): LibTorch makes features and decays, kernels run the scan and the window, in float32, and LibTorch weighs
/// both. Whole sequences, differentiable once; or, with a past, what comes next, without a gradient.
MixOutputs cuda_mix_by_parts(const MixSettings& settings, const MixInputs& in, const WindowPast& past = {});
/// Empty, or why it cannot run these.
std::string cuda_mix_by_parts_refuses(const MixSettings& settings, const MixInputs& in);

}  // namespace liger
