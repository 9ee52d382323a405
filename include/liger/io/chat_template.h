#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/tokenizer.h"

namespace liger {

/// How instruction-tuned models read a conversation; ChatFormat says what each is.
enum class ChatTemplate {
  kFromTokenizer,
  kLlama2,
  kLlama3,
  kLlama31,
  kGemma,
  kMistral,
  kMistralV3,
  kChatMl,
  kQwen2,
  kQwen25,
  kQwen3,
  kZephyr
};

struct ChatTemplateName {
  ChatTemplate which;
  const char* name;
};
/// All but kFromTokenizer.
inline constexpr ChatTemplateName kChatTemplates[] = {
    {ChatTemplate::kLlama2, "llama2"}, {ChatTemplate::kLlama3, "llama3"},   {ChatTemplate::kLlama31, "llama3.1"},
    {ChatTemplate::kGemma, "gemma"},   {ChatTemplate::kMistral, "mistral"}, {ChatTemplate::kMistralV3, "mistral-v3"},
    {ChatTemplate::kChatMl, "chatml"}, {ChatTemplate::kQwen2, "qwen2"},     {ChatTemplate::kQwen25, "qwen2.5"},
    {ChatTemplate::kQwen3, "qwen3"},   {ChatTemplate::kZephyr, "zephyr"},
};
std::string chat_template_names(const std::string& between);
/// "auto" is kFromTokenizer. Throws Error(kUsage) listing the names, after `setting`, which gave the name.
ChatTemplate chat_template_named(std::string_view name, const std::string& setting);

/// A piece of a conversation before it is tokens: a special token, or a stretch of text that is encoded as one.
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

/// Conversations as an instruction-tuned model was trained to read them. What the assistant says is learned, with the
/// token that ends its turn. Texts marked * are stripped of white space at their ends.
///   llama2      BOS "[INST] " user* " [/INST]" " " assistant* " " EOS, again for each exchange;
///               "<<SYS>>\n" system "\n<</SYS>>\n\n" before the first user text
///   llama3      BOS, then <|start_header_id|> role <|end_header_id|> "\n\n" text* <|eot_id|> for each message
///   llama3.1    the same with a system message always, before whose text stand "Cutting Knowledge Date: December
///               2023\nToday Date: 26 Jul 2024\n\n", the template's own date where it is not told one
///   gemma       BOS, then <start_of_turn> "user\n" or "model\n" text* <end_of_turn> "\n" for each message;
///               system "\n\n" before the first user text, as Gemma 3 has it
///   mistral     BOS, then " [INST] " user " [/INST]" " " assistant EOS (the first models of that name);
///               system "\n\n" before the first user text
///   mistral-v3  BOS, then [INST] " " user [/INST] " " assistant* EOS; system "\n\n" before the last user text
///   chatml      <|im_start|> role "\n" text <|im_end|> "\n" for each message
///   qwen2, qwen2.5  the same; without a system message, a default one
///   qwen3       chatml without thoughts ("<think>" ... "</think>") but for those that answer the last user message,
///               which are written even if there are none
///   zephyr      "<|role|>\n" text EOS "\n" for each message (TinyLlama)
/// A system message may only be the first; in llama2, gemma and mistral, user and assistant take turns and the user
/// begins.
class ChatFormat {
 public:
  /// kFromTokenizer: the template that the model's own (Jinja) template is recognised as, else the one whose turn
  /// tokens the tokenizer has. Throws Error(kUsage) that names `setting` and what to set it to if that is none, or if
  /// the tokenizer has not the tokens of the template or does not hold them for special tokens.
  ChatFormat(ChatTemplate which, const Tokenizer& tokenizer, const std::string& setting = "data.template");

  /// Throws Error(kBadInput) "message N: ..." on an order of roles that the template has no form for.
  std::vector<Segment> segments(std::span<const Message> messages) const;
  /// The same with the beginning of the assistant's next turn, for a model to go on with.
  std::vector<Segment> prompt(std::span<const Message> messages) const;
  const char* name() const;  ///< of the template
  /// The token that ends the assistant's turn.
  int64_t end_of_turn() const { return end_; }

 private:
  class Writer;
  void write(std::span<const Message> messages, Writer& out) const;
  void llama2(std::span<const Message> messages, Writer& out) const;
  void llama3(std::span<const Message> messages, Writer& out) const;
  void gemma(std::span<const Message> messages, Writer& out) const;
  void mistral(std::span<const Message> messages, Writer& out) const;
  void chatml(std::span<const Message> messages, Writer& out) const;
  void zephyr(std::span<const Message> messages, Writer& out) const;

  ChatTemplate which_;
  int64_t bos_ = -1, end_ = -1;
  int64_t begin_ = -1, end_of_role_ = -1;  // tokens of a turn
  std::optional<int64_t> open_, close_;    // [INST] and [/INST] where they are tokens
};

/// The tokens of segments. Text that spells a special token stays text.
std::vector<int64_t> encode_segments(std::span<const Segment> segments, const Tokenizer& tokenizer);

/// A conversation as text, special tokens spelled out: what apply_chat_template(tokenize=False) of transformers gives.
/// `prompt`: with the beginning of the assistant's next turn (add_generation_prompt). To be encoded without adding BOS,
/// special tokens parsed. Throws what ChatFormat throws.
std::string chat_text(const ChatFormat& format, const Tokenizer& tokenizer, std::span<const Message> messages,
                      bool prompt = true);

}  // namespace liger
