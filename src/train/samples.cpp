#include "train/samples.h"

#include "liger/generate/generate.h"

namespace liger {

std::vector<TextSample> draw_samples(CausalLM& model, const Tokenizer& tokenizer, const SampleOptions& options) {
  GenerateOptions generation;
  generation.max_tokens = options.max_new_tokens;
  generation.sampling.temperature = options.temperature;
  std::vector<TextSample> samples;
  for (const std::string& prompt : options.prompts) {
    samples.push_back({prompt, generate(model, tokenizer, encode_prompt(tokenizer, prompt), generation).text});
  }
  return samples;
}

}  // namespace liger
