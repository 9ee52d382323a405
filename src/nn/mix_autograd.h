#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include "core/optional_tensor.h"
#include "nn/fused_mix.h"

namespace liger {

/// Whether a backward pass may be asked of a mix of these.
bool wants_gradient(const MixInputs& in);

/// What a mix was, for its backward pass.
void save_settings(const MixSettings& settings, const std::vector<int64_t>& lengths,
                   torch::autograd::AutogradContext& context);
MixSettings saved_settings(torch::autograd::AutogradContext& context);
std::vector<int64_t> saved_lengths(torch::autograd::AutogradContext& context);

}  // namespace liger
