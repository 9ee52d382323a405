#pragma once

#include "liger/core/backend.h"
#include "nn/fused_mix.h"

namespace liger {

/// Whether compiled code or kernels run these inputs where they are. Where they cannot: an Error with the reason if the
/// backend was named, else a warning with it, once.
/// `past`: tokens of each sequence that a state knows; null: whole sequences and no state.
bool runs_fused(Backend backend, const MixSettings& settings, const MixInputs& in,
                const std::vector<int64_t>* past = nullptr);

/// Whole sequences, by what runs_fused() chooses.
MixOutputs run_mix(Backend backend, const MixSettings& settings, const MixInputs& in);

}  // namespace liger
