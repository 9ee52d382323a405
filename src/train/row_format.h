#pragma once

#include <optional>
#include <string>
#include <vector>

#include "liger/io/chat_template.h"
#include "liger/io/json.h"
#include "liger/io/tokenizer.h"
#include "liger/train/options.h"

namespace liger {

/// What the rows of a data file hold, and how they are told to the model:
///   alpaca, completion   [BOS] prompt, not learned; output EOS, learned. Prompt and output are encoded apart
///   text                 [BOS], not learned; text EOS, learned
///   chat, sharegpt       as ChatFormat says
class RowFormat {
 public:
  /// Throws Error(kBadInput) for a tokenizer without EOS, and what ChatFormat throws.
  RowFormat(const DataOptions& options, const Tokenizer& tokenizer);

  /// Throws Error(kBadInput) "`where`: ..." on a row that lacks a field or has one of the wrong type.
  std::vector<Segment> segments(const Json& row, const std::string& where) const;
  /// Everything beside the tokenizer that decides the tokens of a row, in words.
  std::string name() const;

 private:
  std::vector<Segment> told(std::vector<Segment> texts) const;

  DataFormat format_;
  std::optional<ChatFormat> chat_;
  std::optional<int64_t> bos_;
  int64_t eos_ = -1;
};

struct EncodedRow {
  std::vector<int64_t> tokens;
  std::vector<bool> learned;
};
/// Text that spells a special token stays text. Where output follows prompt in one stretch of text, the first token
/// learned is the first one that the prompt alone would not have.
EncodedRow encode(const std::vector<Segment>& segments, const Tokenizer& tokenizer);

}  // namespace liger
