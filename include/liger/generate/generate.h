#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "liger/generate/sampling.h"

namespace liger {

class CausalLM;
class Tokenizer;
struct Conversation;

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<std::string> stop;  ///< the text ends before the first of these
  bool ignore_eos = false;
  std::vector<int64_t> also_end;  ///< tokens that end the text as EOS does, such as the one behind a turn of a chat
  int64_t prefill_chunk = 2048;   ///< tokens of the prompt read at once: bounds memory
};

/// Throws Error(kUsage) on an option out of range.
void validate(const GenerateOptions& options);

struct Generation {
  std::string text;             ///< what follows the prompt
  std::vector<int64_t> tokens;  ///< without the EOS that ended it
  std::string finish_reason;    ///< "stop" (EOS or a stop string) or "length"
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0.0, decode_seconds = 0.0;
  int64_t decode_steps = 0;  ///< tokens read one at a time in decode_seconds

  double prefill_tokens_per_second() const;  ///< 0 if nothing was measured
  double decode_tokens_per_second() const;
};

/// Ids of a prompt: special tokens spelled in it count, BOS goes in front where the tokenizer says so and the text does
/// not; an empty prompt is the bare BOS (EOS for a tokenizer without).
std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text);

/// The tokens that end a text: the configuration's, else the tokenizer's EOS.
std::vector<int64_t> end_ids(const CausalLM& model, const Tokenizer& tokenizer);

/// Ids of a text that goes on where another ended: without BOS, maybe none.
std::vector<int64_t> encode_continuation(const Tokenizer& tokenizer, std::string_view text);

/// Continues `prompt` (at least one id, or none if the conversation has a next token) until EOS (of the config, else of
/// the tokenizer), a stop string or `max_tokens`. `on_text` gets the text as it becomes certain; its pieces together
/// are Generation::text. The memory needed is constant in the length of the text for a Liger model. Throws
/// Error(kUsage) on options out of range, Error(kCancelled) after a signal. A `conversation` is what was read before
/// the prompt, and gets what came of it.
Generation generate(CausalLM& model, const Tokenizer& tokenizer, std::span<const int64_t> prompt,
                    const GenerateOptions& options, const std::function<void(std::string_view)>& on_text = {},
                    Conversation* conversation = nullptr);

}  // namespace liger
