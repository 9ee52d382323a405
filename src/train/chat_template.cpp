#include "train/chat_template.h"

#include <utility>

#include "io/white_space.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr const char *kLlama3Begin = "<|start_header_id|>", *kLlama3EndOfRole = "<|end_header_id|>",
                     *kLlama3End = "<|eot_id|>";
constexpr const char *kGemmaBegin = "<start_of_turn>", *kGemmaEnd = "<end_of_turn>";

ChatTemplate choose(const Tokenizer& tokenizer) {
  if (tokenizer.id_of(kLlama3Begin) && tokenizer.id_of(kLlama3End)) return ChatTemplate::kLlama3;
  if (tokenizer.id_of(kGemmaBegin) && tokenizer.id_of(kGemmaEnd)) return ChatTemplate::kGemma;
  fail(ErrorCode::kUsage, "data.template: the tokenizer has neither ", kLlama3Begin, " nor ", kGemmaBegin,
       ", so it does not say how its model reads a conversation; set data.template to llama2, llama3 or gemma");
}

const char* name_of(ChatTemplate which) {
  return which == ChatTemplate::kLlama2 ? "llama2" : which == ChatTemplate::kLlama3 ? "llama3" : "gemma";
}

const char* name_of(Role role) { return role == Role::kSystem ? "system" : role == Role::kUser ? "user" : "assistant"; }

std::string stripped(const std::string& text) { return std::string(detail::stripped(text)); }

std::span<const Message> without_system(std::span<const Message> messages) {
  return messages.subspan(messages.front().role == Role::kSystem ? 1 : 0);
}

void check_system_first(std::span<const Message> messages) {
  for (size_t i = 1; i < messages.size(); ++i) {
    LIGER_CHECK(messages[i].role != Role::kSystem, "message ", i + 1, ": a system message can only be the first");
  }
}

void check_taking_turns(std::span<const Message> messages, const char* which) {
  const size_t first = messages.front().role == Role::kSystem ? 1 : 0;
  LIGER_CHECK(messages.size() > first, "message 1: a system message with nothing after it");
  for (size_t i = first; i < messages.size(); ++i) {
    const Role expected = (i - first) % 2 == 0 ? Role::kUser : Role::kAssistant;
    LIGER_CHECK(messages[i].role == expected, "message ", i + 1, ": expected one of the ", name_of(expected), ", got ",
                name_of(messages[i].role), "; in the template ", which,
                " user and assistant take turns, the user first");
  }
}

}  // namespace

ChatFormat::ChatFormat(ChatTemplate which, const Tokenizer& tokenizer)
    : which_(which == ChatTemplate::kFromTokenizer ? choose(tokenizer) : which) {
  const auto need = [&](std::optional<int64_t> id, const char* token) {
    LIGER_CHECK_USAGE(id && tokenizer.is_special(*id), "data.template: ", name(), " needs the special token ", token,
                      id ? ", which the tokenizer has only as text" : ", which the tokenizer does not have",
                      "; set data.template to the one of this model");
    return *id;
  };
  const auto find = [&](const char* token) { return need(tokenizer.id_of(token), token); };
  bos_ = need(tokenizer.bos(), "BOS");
  if (which_ == ChatTemplate::kLlama2) eos_ = need(tokenizer.eos(), "EOS");
  if (which_ == ChatTemplate::kLlama3) {
    begin_ = find(kLlama3Begin);
    end_of_role_ = find(kLlama3EndOfRole);
    end_ = find(kLlama3End);
  }
  if (which_ == ChatTemplate::kGemma) {
    begin_ = find(kGemmaBegin);
    end_ = find(kGemmaEnd);
  }
}

const char* ChatFormat::name() const { return name_of(which_); }

std::vector<Segment> ChatFormat::segments(std::span<const Message> messages) const {
  LIGER_CHECK(!messages.empty(), "a conversation without a message");
  check_system_first(messages);
  if (which_ != ChatTemplate::kLlama3) check_taking_turns(messages, name());
  if (which_ == ChatTemplate::kLlama2) return llama2(messages);
  return which_ == ChatTemplate::kLlama3 ? llama3(messages) : gemma(messages);
}

std::vector<Segment> ChatFormat::llama2(std::span<const Message> messages) const {
  std::vector<Segment> out;
  std::string system;
  if (messages.front().role == Role::kSystem) system = cat("<<SYS>>\n", messages.front().text, "\n<</SYS>>\n\n");
  const std::span<const Message> turns = without_system(messages);
  for (size_t i = 0; i < turns.size(); i += 2) {
    out.push_back(Segment::special(bos_, false));
    out.push_back(Segment::text(cat("[INST] ", stripped((i == 0 ? system : "") + turns[i].text), " [/INST]"), ""));
    if (i + 1 == turns.size()) break;  // asked, and not answered
    out.back().output = cat(" ", stripped(turns[i + 1].text), " ");
    out.push_back(Segment::special(eos_, true));
  }
  return out;
}

std::vector<Segment> ChatFormat::llama3(std::span<const Message> messages) const {
  std::vector<Segment> out = {Segment::special(bos_, false)};
  for (const Message& message : messages) {
    const bool learned = message.role == Role::kAssistant;
    out.push_back(Segment::special(begin_, false));
    out.push_back(Segment::text(name_of(message.role), ""));
    out.push_back(Segment::special(end_of_role_, false));
    out.push_back(Segment::text("\n\n", stripped(message.text)));
    if (!learned) out.back() = Segment::text(out.back().prompt + out.back().output, "");
    out.push_back(Segment::special(end_, learned));
  }
  return out;
}

std::vector<Segment> ChatFormat::gemma(std::span<const Message> messages) const {
  std::vector<Segment> out = {Segment::special(bos_, false)};
  std::string system;
  if (messages.front().role == Role::kSystem) system = messages.front().text + "\n\n";
  for (const Message& message : without_system(messages)) {
    const bool learned = message.role == Role::kAssistant;
    out.push_back(Segment::special(begin_, false));
    if (learned) {
      out.push_back(Segment::text("model\n", stripped(message.text)));
    } else {
      out.push_back(Segment::text(cat("user\n", std::exchange(system, ""), stripped(message.text)), ""));
    }
    out.push_back(Segment::special(end_, learned));
    out.push_back(Segment::text("\n", ""));
  }
  return out;
}

}  // namespace liger
