#include "liger/io/chat_template.h"

#include <algorithm>
#include <utility>

#include "io/text.h"
#include "io/white_space.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr const char *kLlama3Begin = "<|start_header_id|>", *kLlama3EndOfRole = "<|end_header_id|>",
                     *kLlama3End = "<|eot_id|>";
constexpr const char *kGemmaBegin = "<start_of_turn>", *kGemmaEnd = "<end_of_turn>";
constexpr const char *kChatMlBegin = "<|im_start|>", *kChatMlEnd = "<|im_end|>";
constexpr const char *kQwen2System = "You are a helpful assistant.",
                     *kQwen25System = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr const char* kLlama31Dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

std::string all_names() {
  std::string names = chat_template_names(", ");
  const size_t last = names.rfind(", ");
  return names.replace(last, 2, " or ");
}

/// What a model's Jinja template is, by what only it says. One that is none of ours must not be taken for the nearest.
std::optional<ChatTemplate> recognise(std::string_view jinja) {
  const auto says = [&](std::string_view part) { return jinja.find(part) != std::string_view::npos; };
  const auto quoted = [&](const std::string& text) { return says('"' + text + '"') || says('\'' + text + '\''); };
  if (says(kChatMlBegin)) {
    if (says("last_query_index")) return ChatTemplate::kQwen3;
    if (says(kQwen25System)) return ChatTemplate::kQwen25;
    if (says(kQwen2System)) return ChatTemplate::kQwen2;
    return ChatTemplate::kChatMl;
  }
  if (says(kLlama3Begin)) return says("Cutting Knowledge Date") ? ChatTemplate::kLlama31 : ChatTemplate::kLlama3;
  if (says(kGemmaBegin)) return ChatTemplate::kGemma;
  if (says("<<SYS>>")) return ChatTemplate::kLlama2;
  if (quoted(" [INST] ") && quoted(" [/INST]")) return ChatTemplate::kMistral;
  if (quoted("[INST] ") && quoted("[/INST]")) return ChatTemplate::kMistralV3;
  if (says("<|user|>") && says("<|assistant|>") && says("eos_token") && !says("<|end|>")) return ChatTemplate::kZephyr;
  return std::nullopt;
}

ChatTemplate choose(const Tokenizer& tokenizer, const std::string& setting) {
  const std::string jinja = tokenizer.chat_template();
  if (!jinja.empty()) {
    const auto known = recognise(jinja);
    LIGER_CHECK_USAGE(known, setting, ": the model's own chat template is none of those built in; set ", setting,
                      " to ", all_names());
    return *known;
  }
  if (tokenizer.id_of(kLlama3Begin) && tokenizer.id_of(kLlama3End)) return ChatTemplate::kLlama3;
  if (tokenizer.id_of(kGemmaBegin) && tokenizer.id_of(kGemmaEnd)) return ChatTemplate::kGemma;
  if (tokenizer.id_of(kChatMlBegin) && tokenizer.id_of(kChatMlEnd)) return ChatTemplate::kChatMl;
  fail(ErrorCode::kUsage, setting, ": the tokenizer has no chat template and none of ", kLlama3Begin, ", ", kGemmaBegin,
       " and ", kChatMlBegin, ", so it does not say how its model reads a conversation; set ", setting, " to ",
       all_names());
}

const char* name_of(ChatTemplate which) {
  for (const auto& known : kChatTemplates) {
    if (known.which == which) return known.name;
  }
  return "auto";
}

const char* name_of(Role role) { return role == Role::kSystem ? "system" : role == Role::kUser ? "user" : "assistant"; }

std::string stripped(const std::string& text) { return std::string(detail::stripped(text)); }

bool has_system(std::span<const Message> messages) { return messages.front().role == Role::kSystem; }

std::span<const Message> without_system(std::span<const Message> messages) {
  return messages.subspan(has_system(messages) ? 1 : 0);
}

void check_system_first(std::span<const Message> messages) {
  for (size_t i = 1; i < messages.size(); ++i) {
    LIGER_CHECK(messages[i].role != Role::kSystem, "message ", i + 1, ": a system message can only be the first");
  }
}

void check_taking_turns(std::span<const Message> messages, const char* which) {
  const size_t first = has_system(messages) ? 1 : 0;
  LIGER_CHECK(messages.size() > first, "message 1: a system message with nothing after it");
  for (size_t i = first; i < messages.size(); ++i) {
    const Role expected = (i - first) % 2 == 0 ? Role::kUser : Role::kAssistant;
    LIGER_CHECK(messages[i].role == expected, "message ", i + 1, ": expected one of the ", name_of(expected), ", got ",
                name_of(messages[i].role), "; in the template ", which,
                " user and assistant take turns, the user first");
  }
}

std::string_view without_newlines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

/// What Qwen 3 thought, and what it said.
struct Thought {
  std::string_view thought, said;
};
Thought split_thought(std::string_view text) {
  constexpr std::string_view kBegin = "<think>", kEnd = "</think>";
  const size_t first = text.find(kEnd), last = text.rfind(kEnd);
  if (first == std::string_view::npos) return {{}, text};
  std::string_view thought = without_newlines(text.substr(0, first), false, true);
  if (const size_t begin = thought.rfind(kBegin); begin != std::string_view::npos) {
    thought.remove_prefix(begin + kBegin.size());
  }
  return {without_newlines(thought, true, false), without_newlines(text.substr(last + kEnd.size()), true, false)};
}

/// The last message of the user that is not what a tool answered.
size_t last_question(std::span<const Message> messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    const std::string& text = messages[i].text;
    const bool is_tool = text.starts_with("<tool_response>") && text.ends_with("</tool_response>");
    if (messages[i].role == Role::kUser && !is_tool) return i;
  }
  return messages.size() - 1;
}

}  // namespace

std::string chat_template_names(const std::string& between) {
  std::string names;
  for (const auto& known : kChatTemplates) names += (names.empty() ? "" : between) + std::string(known.name);
  return names;
}

ChatTemplate chat_template_named(std::string_view name, const std::string& setting) {
  if (name == "auto") return ChatTemplate::kFromTokenizer;
  for (const auto& known : kChatTemplates) {
    if (name == known.name) return known.which;
  }
  fail(ErrorCode::kUsage, setting, ": '", detail::printable(name), "' is no template that is built in; expected auto, ",
       all_names());
}

/// Segments in the making; text that follows text goes on with it, since it must be encoded as one.
class ChatFormat::Writer {
 public:
  void special(int64_t token, bool learned = false) { segments_.push_back(Segment::special(token, learned)); }
  void special_or_text(std::optional<int64_t> token, const char* spelled) { token ? special(*token) : text(spelled); }
  void text(std::string_view text) {
    if (segments_.empty() || segments_.back().token || !segments_.back().output.empty()) {
      segments_.push_back(Segment::text("", ""));
    }
    segments_.back().prompt += text;
  }
  void learned(std::string_view output) {
    text("");
    segments_.back().output = output;
  }
  std::vector<Segment> take() { return std::move(segments_); }

 private:
  std::vector<Segment> segments_;
};

ChatFormat::ChatFormat(ChatTemplate which, const Tokenizer& tokenizer, const std::string& setting)
    : which_(which == ChatTemplate::kFromTokenizer ? choose(tokenizer, setting) : which) {
  const auto need = [&](std::optional<int64_t> id, const char* token) {
    LIGER_CHECK_USAGE(id && tokenizer.is_special(*id), setting, ": ", name(), " needs the special token ", token,
                      id ? ", which the tokenizer has only as text" : ", which the tokenizer does not have", "; set ",
                      setting, " to the one of this model");
    return *id;
  };
  const auto find = [&](const char* token) { return need(tokenizer.id_of(token), token); };
  switch (which_) {
    case ChatTemplate::kLlama3:
    case ChatTemplate::kLlama31:
      bos_ = need(tokenizer.bos(), "BOS");
      begin_ = find(kLlama3Begin), end_of_role_ = find(kLlama3EndOfRole), end_ = find(kLlama3End);
      return;
    case ChatTemplate::kGemma:
      bos_ = need(tokenizer.bos(), "BOS");
      begin_ = find(kGemmaBegin), end_ = find(kGemmaEnd);
      return;
    case ChatTemplate::kChatMl:
    case ChatTemplate::kQwen2:
    case ChatTemplate::kQwen25:
    case ChatTemplate::kQwen3: begin_ = find(kChatMlBegin), end_ = find(kChatMlEnd); return;
    case ChatTemplate::kZephyr: end_ = need(tokenizer.eos(), "EOS"); return;
    default: break;
  }
  bos_ = need(tokenizer.bos(), "BOS");
  end_ = need(tokenizer.eos(), "EOS");
  const auto special = [&](const char* token) -> std::optional<int64_t> {
    const auto id = tokenizer.id_of(token);
    return id && tokenizer.is_special(*id) ? id : std::nullopt;
  };
  if (which_ != ChatTemplate::kLlama2) open_ = special("[INST]"), close_ = special("[/INST]");
}

const char* ChatFormat::name() const { return name_of(which_); }

void ChatFormat::write(std::span<const Message> messages, Writer& out) const {
  LIGER_CHECK(!messages.empty(), "a conversation without a message");
  check_system_first(messages);
  switch (which_) {
    case ChatTemplate::kLlama2: check_taking_turns(messages, name()); return llama2(messages, out);
    case ChatTemplate::kGemma: check_taking_turns(messages, name()); return gemma(messages, out);
    case ChatTemplate::kMistral:
    case ChatTemplate::kMistralV3: check_taking_turns(messages, name()); return mistral(messages, out);
    case ChatTemplate::kLlama3:
    case ChatTemplate::kLlama31: return llama3(messages, out);
    case ChatTemplate::kZephyr: return zephyr(messages, out);
    default: return chatml(messages, out);
  }
}

std::vector<Segment> ChatFormat::segments(std::span<const Message> messages) const {
  Writer out;
  write(messages, out);
  return out.take();
}

std::vector<Segment> ChatFormat::prompt(std::span<const Message> messages) const {
  Writer out;
  write(messages, out);
  if (which_ == ChatTemplate::kLlama3 || which_ == ChatTemplate::kLlama31) {
    out.special(begin_);
    out.text("assistant");
    out.special(end_of_role_);
    out.text("\n\n");
  } else if (which_ == ChatTemplate::kGemma) {
    out.special(begin_);
    out.text("model\n");
  } else if (which_ == ChatTemplate::kZephyr) {
    out.text("<|assistant|>\n");
  } else if (begin_ >= 0) {
    out.special(begin_);
    out.text("assistant\n");
  }
  return out.take();
}

void ChatFormat::llama2(std::span<const Message> messages, Writer& out) const {
  std::string system;
  if (has_system(messages)) system = cat("<<SYS>>\n", messages.front().text, "\n<</SYS>>\n\n");
  for (const Message& message : without_system(messages)) {
    if (message.role == Role::kUser) {
      out.special(bos_);
      out.text(cat("[INST] ", stripped(std::exchange(system, "") + message.text), " [/INST]"));
    } else {
      out.learned(cat(" ", stripped(message.text), " "));
      out.special(end_, true);
    }
  }
}

void ChatFormat::mistral(std::span<const Message> messages, Writer& out) const {
  const bool v3 = which_ == ChatTemplate::kMistralV3;
  const std::span<const Message> turns = without_system(messages);
  const size_t told = v3 ? (turns.size() - 1) / 2 * 2 : 0;  // which user message has the system text in front
  out.special(bos_);
  for (size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == Role::kAssistant) {
      out.learned(" " + (v3 ? stripped(turns[i].text) : turns[i].text));
      out.special(end_, true);
      continue;
    }
    if (!v3) out.text(" ");
    out.special_or_text(open_, "[INST]");
    out.text(" ");
    if (i == told && has_system(messages)) out.text(messages.front().text + "\n\n");
    out.text(turns[i].text);
    if (!v3) out.text(" ");
    out.special_or_text(close_, "[/INST]");
  }
}

void ChatFormat::llama3(std::span<const Message> messages, Writer& out) const {
  const auto write_turn = [&](const char* role, const std::string& text, bool learned) {
    out.special(begin_);
    out.text(role);
    out.special(end_of_role_);
    out.text("\n\n");
    learned ? out.learned(text) : out.text(text);
    out.special(end_, learned);
  };
  out.special(bos_);
  std::span<const Message> turns = messages;
  if (which_ == ChatTemplate::kLlama31) {
    turns = without_system(messages);
    write_turn("system", kLlama31Dates + (has_system(messages) ? stripped(messages.front().text) : ""), false);
  }
  for (const Message& message : turns) {
    write_turn(name_of(message.role), stripped(message.text), message.role == Role::kAssistant);
  }
}

void ChatFormat::gemma(std::span<const Message> messages, Writer& out) const {
  out.special(bos_);
  std::string system;
  if (has_system(messages)) system = messages.front().text + "\n\n";
  for (const Message& message : without_system(messages)) {
    const bool learned = message.role == Role::kAssistant;
    out.special(begin_);
    out.text(learned ? "model\n" : "user\n");
    learned ? out.learned(stripped(message.text)) : out.text(std::exchange(system, "") + stripped(message.text));
    out.special(end_, learned);
    out.text("\n");
  }
}

void ChatFormat::chatml(std::span<const Message> messages, Writer& out) const {
  const auto write_turn = [&](Role role, const std::string& text) {
    const bool learned = role == Role::kAssistant;
    out.special(begin_);
    out.text(cat(name_of(role), "\n"));
    learned ? out.learned(text) : out.text(text);
    out.special(end_, learned);
    out.text("\n");
  };
  const char* system = which_ == ChatTemplate::kQwen2 ? kQwen2System : kQwen25System;
  const bool has_default = which_ == ChatTemplate::kQwen2 || which_ == ChatTemplate::kQwen25;
  if (has_default && !has_system(messages)) write_turn(Role::kSystem, system);
  const size_t question = last_question(messages);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (which_ != ChatTemplate::kQwen3 || messages[i].role != Role::kAssistant) {
      write_turn(messages[i].role, messages[i].text);
      continue;
    }
    const Thought parts = split_thought(messages[i].text);
    const bool thinks = i > question && (i + 1 == messages.size() || !parts.thought.empty());
    write_turn(Role::kAssistant, thinks ? cat("<think>\n", without_newlines(parts.thought, true, true),
                                              "\n</think>\n\n", without_newlines(parts.said, true, false))
                                        : std::string(parts.said));
  }
}

void ChatFormat::zephyr(std::span<const Message> messages, Writer& out) const {
  for (const Message& message : messages) {
    const bool learned = message.role == Role::kAssistant;
    out.text(cat("<|", name_of(message.role), "|>\n"));
    learned ? out.learned(message.text) : out.text(message.text);
    out.special(end_, learned);
    out.text("\n");
  }
}

std::vector<int64_t> encode_segments(std::span<const Segment> segments, const Tokenizer& tokenizer) {
  std::vector<int64_t> ids;
  for (const Segment& segment : segments) {
    if (segment.token) {
      ids.push_back(*segment.token);
    } else {
      const auto more = tokenizer.encode(segment.prompt + segment.output);
      ids.insert(ids.end(), more.begin(), more.end());
    }
  }
  return ids;
}

std::string chat_text(const ChatFormat& format, const Tokenizer& tokenizer, std::span<const Message> messages,
                      bool prompt) {
  std::string text;
  for (const Segment& segment : prompt ? format.prompt(messages) : format.segments(messages)) {
    text += segment.token ? tokenizer.token(*segment.token) : segment.prompt + segment.output;
  }
  return text;
}

}  // namespace liger
