#pragma once

#include <string>
#include <vector>

#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"
#include "liger/train/options.h"

namespace liger {

struct TextSample {
  std::string prompt, text;  ///< the text follows the prompt
};

/// Lets the model continue every prompt, as it is now; the random numbers that training draws are left alone.
/// Throws Error(kCancelled) after a signal, Error(kBadInput) if the logits are not finite.
std::vector<TextSample> draw_samples(CausalLM& model, const Tokenizer& tokenizer, const SampleOptions& options);

}  // namespace liger
