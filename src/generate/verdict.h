#pragma once

#include "liger/core/model_config.h"
#include "liger/generate/exits.h"
#include "ops/choose_tokens.h"

namespace liger {

/// What a rule has to know of a row of logits.
ChoiceSums sums_for(ExitRule rule);
/// What it makes of that; `before` is the verdict after the loop before, its token -1 after the first loop.
Verdict verdict(ExitRule rule, const RowChoice& choice, const Verdict& before);
/// Throws Error(kUsage) unless tokens can leave this model after any of its loops, as in training.
void check_exits(const ModelConfig& config);

}  // namespace liger
