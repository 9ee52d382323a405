#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "liger/io/tokenizer.h"
#include "liger/train/options.h"

namespace liger {

/// A piece of a row before it is tokens: a special token, or a stretch of text that is encoded as one.
struct Segment {
  std::optional<int64_t> token = {};
  bool learned = false;                  ///< the token
  std::string prompt = {}, output = {};  ///< the text, of which only `output` is learned

  static Segment special(int64_t token, bool learned) { return {token, learned, {}, {}}; }
  static Segment text(std::string prompt, std::string output) {
    return {{}, false, std::move(prompt), std::move(output)};
  }
};

enum class Role { kSystem, kUser, kAssistant };
struct Message {
  Role role;
  std::string text;
};

/// Conversations as an instruction-tuned model was trained to read them. Texts are stripped of white space at their
/// ends, and what the assistant says is learned, with the token that ends its turn:
///   llama2  BOS "[INST] " user " [/INST]" " " assistant " " EOS, again for each exchange;
///           "<<SYS>>\n" system "\n<</SYS>>\n\n" before the first user text
///   llama3  BOS, then <|start_header_id|> role <|end_header_id|> "\n\n" text <|eot_id|> for each message
///   gemma   BOS, then <start_of_turn> "user\n" or "model\n" text <end_of_turn> "\n" for each message;
///           system "\n\n" before the first user text
/// A system message may only be the first; in llama2 and gemma, user and assistant take turns and the user begins.
class ChatFormat {
 public:
  /// kFromTokenizer: the template whose turn tokens the tokenizer has. Throws Error(kUsage) saying what to set if it
  /// has none, or not those of the template named, or does not hold them for special tokens.
  ChatFormat(ChatTemplate which, const Tokenizer& tokenizer);

  /// Throws Error(kBadInput) "message N: ..." on an order of roles that the template has no form for.
  std::vector<Segment> segments(std::span<const Message> messages) const;
  const char* name() const;  ///< of the template

 private:
  std::vector<Segment> llama2(std::span<const Message> messages) const;
  std::vector<Segment> llama3(std::span<const Message> messages) const;
  std::vector<Segment> gemma(std::span<const Message> messages) const;

  ChatTemplate which_;
  int64_t bos_ = -1, eos_ = -1;
  int64_t begin_ = -1, end_of_role_ = -1, end_ = -1;  // tokens of a turn
};

}  // namespace liger
