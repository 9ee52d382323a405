#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

class Tokenizer;

/// Tokens whose probability is asked for, after the tokens they follow (at least one).
struct ScoreRequest {
  std::vector<int64_t> context, continuation;
};

/// Turns text into requests by lm-evaluation-harness's rules: white space at the end of a context goes to the
/// continuation; context and continuation are encoded together and cut where the context alone ends; an empty context
/// is the prefix token; what does not fit the model is cut off on the left. Special tokens spelled in the text count.
class RequestEncoder {
 public:
  /// `max_length`: positions of the model. Throws Error(kBadInput) if the tokenizer has neither BOS nor EOS.
  RequestEncoder(const Tokenizer& tokenizer, int64_t max_length);

  /// Throws Error(kBadInput) if the continuation has no tokens of its own or more than `max_length`.
  ScoreRequest encode(std::string_view context, std::string_view continuation) const;
  /// A document on its own: every token of `text` predicted, the first from the prefix token. Literal text, no EOS.
  std::vector<ScoreRequest> encode_document(std::string_view text) const;
  /// lm-evaluation-harness's rolling log-likelihood: the same of encode_whole(text), so that BOS, where the tokenizer
  /// begins with one, is predicted too.
  std::vector<ScoreRequest> encode_rolling(std::string_view text) const;

  int64_t prefix() const { return prefix_; }  ///< BOS, or EOS for a tokenizer without
  int64_t max_length() const { return max_length_; }

 private:
  const Tokenizer& tokenizer_;
  int64_t max_length_, prefix_;
};

/// Requests that predict each of `tokens` once: the first min(n, max_length) after `prefix`, then steps of max_length
/// tokens, the last of a step seeing max_length tokens before it.
std::vector<ScoreRequest> rolling_windows(std::span<const int64_t> tokens, int64_t prefix, int64_t max_length);

}  // namespace liger
