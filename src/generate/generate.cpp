#include "liger/generate/generate.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <optional>

#include "generate/prefill.h"
#include "liger/error.h"
#include "liger/generate/stop.h"
#include "liger/io/interrupt.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/step_decoder.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double rate(int64_t tokens, double seconds) {
  return tokens > 0 && seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

// One token after the other, in compiled code where the model allows it.
class TokenReader {
 public:
  explicit TokenReader(CausalLM& model) : model_(model) {
    if (StepDecoder::supports(model)) steps_.emplace(model, 1);
  }
  at::Tensor read(int64_t id, DecodingState& state) {
    return steps_ ? steps_->step(std::span(&id, 1), state) : prefill(model_, std::span(&id, 1), 1, state);
  }

 private:
  CausalLM& model_;
  std::optional<StepDecoder> steps_;
};

// From ids to text that is certain, and to the end of it.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::span<const int64_t> prompt, const std::vector<std::string>& stops,
             const std::function<void(std::string_view)>& on_text, std::string& text)
      : decoder_(tokenizer, prompt), matcher_(stops), on_text_(on_text), text_(text) {}
  void push(int64_t id) { emit(matcher_.push(decoder_.push(id))); }
  void finish() {
    emit(matcher_.push(decoder_.flush()));
    if (!stopped()) emit(matcher_.flush());
  }
  bool stopped() const { return matcher_.stopped(); }

 private:
  void emit(const std::string& piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (on_text_) on_text_(piece);
  }
  StreamDecoder decoder_;
  StopMatcher matcher_;
  const std::function<void(std::string_view)>& on_text_;
  std::string& text_;
};

}  // namespace

void validate(const GenerateOptions& options) {
  LIGER_CHECK_USAGE(options.max_tokens > 0, "max-tokens must be 1 or more, got ", options.max_tokens);
  LIGER_CHECK_USAGE(options.prefill_chunk > 0, "prefill_chunk must be 1 or more, got ", options.prefill_chunk);
  Sampler{options.sampling};
  StopMatcher{options.stop};
}

double Generation::prefill_tokens_per_second() const { return rate(prompt_tokens, prefill_seconds); }
double Generation::decode_tokens_per_second() const { return rate(decode_steps, decode_seconds); }

std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int64_t> ids;
  if (!text.empty()) ids = encode_whole(tokenizer, text);
  if (!ids.empty()) return ids;
  const auto first = first_token(tokenizer);
  LIGER_CHECK_USAGE(first.has_value(), "the prompt is empty, and the tokenizer has no BOS or EOS to begin a text with");
  return {*first};
}

std::vector<int64_t> end_ids(const CausalLM& model, const Tokenizer& tokenizer) {
  if (!model.config().eos_token_ids.empty()) return model.config().eos_token_ids;
  if (const auto eos = tokenizer.eos()) return {*eos};
  return {};
}

std::vector<int64_t> encode_continuation(const Tokenizer& tokenizer, std::string_view text) {
  return text.empty() ? std::vector<int64_t>{} : tokenizer.encode(text, Specials::kParse);
}

Generation generate(CausalLM& model, const Tokenizer& tokenizer, std::span<const int64_t> given,
                    const GenerateOptions& options, const std::function<void(std::string_view)>& on_text,
                    Conversation* conversation) {
  std::vector<int64_t> prompt(given.begin(), given.end());
  if (conversation && conversation->next) prompt.insert(prompt.begin(), *conversation->next);
  LIGER_CHECK_USAGE(!prompt.empty(), "the prompt has no tokens");
  validate(options);
  for (const int64_t id : prompt) {
    LIGER_CHECK(id >= 0 && id < model.config().vocab_size, "the prompt has token id ", id,
                ", but the model's ids end at ", model.config().vocab_size - 1, ": the tokenizer is another model's");
  }
  const c10::InferenceMode inference;
  model.eval();
  Sampler sampler(options.sampling);
  Generation result;
  result.prompt_tokens = std::ssize(prompt);
  result.finish_reason = "length";
  TextStream stream(tokenizer, prompt, options.stop, on_text, result.text);
  std::vector<int64_t> ends;
  if (!options.ignore_eos) {
    ends = end_ids(model, tokenizer);
    ends.insert(ends.end(), options.also_end.begin(), options.also_end.end());
  }

  DecodingState own;
  DecodingState& state = conversation ? conversation->state : own;
  TokenReader reader(model);
  const auto start = Clock::now();
  int64_t id = sampler.sample(prefill(model, prompt, options.prefill_chunk, state));
  result.prefill_seconds = seconds_since(start);

  const auto decode_start = Clock::now();
  while (true) {
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) {
      result.finish_reason = "stop";
      break;
    }
    result.tokens.push_back(id);
    stream.push(id);
    if (stream.stopped() || std::ssize(result.tokens) == options.max_tokens) break;
    throw_if_interrupted();
    id = sampler.sample(reader.read(id, state));
    ++result.decode_steps;
  }
  if (conversation) conversation->next = id;
  result.decode_seconds = seconds_since(decode_start);
  stream.finish();
  if (stream.stopped()) result.finish_reason = "stop";
  return result;
}

}  // namespace liger
