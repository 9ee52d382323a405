#pragma once

#include "liger/core/backend.h"
#include "nn/fused_mix.h"

namespace liger {

/// Whether compiled code or kernels run these inputs where they are. Where they cannot: an Error with the reason if the
/// backend was named, else a warning with it, once.
/// `continues`: the tokens go on from a state.
bool runs_fused(Backend backend, const MixSettings& settings, const MixInputs& in, bool continues = false);

/// Whole sequences, by what runs_fused() chooses.
MixOutputs run_mix(Backend backend, const MixSettings& settings, const MixInputs& in);

}  // namespace liger
