#include "train/row_format.h"

#include <algorithm>

#include "io/text.h"
#include "liger/error.h"
#include "liger/io/jsonl.h"

namespace liger {
namespace {

// The template of Stanford Alpaca, which the public instruction data sets are written for.
std::string alpaca_prompt(const std::string& instruction, const std::string& input) {
  if (input.empty()) {
    return cat(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n",
        instruction, "\n\n### Response:\n");
  }
  return cat(
      "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response that appropriately completes the request.\n\n### Instruction:\n",
      instruction, "\n\n### Input:\n", input, "\n\n### Response:\n");
}

/// Names of columns and roles in a row that holds a conversation.
struct Conversation {
  const char *messages, *role, *text;
  const char *system, *user, *assistant;
};
constexpr Conversation kChat = {"messages", "role", "content", "system", "user", "assistant"};
constexpr Conversation kSharegpt = {"conversations", "from", "value", "system", "human", "gpt"};

Role role_of(const std::string& name, const Conversation& names, const std::string& where) {
  if (name == names.system) return Role::kSystem;
  if (name == names.user) return Role::kUser;
  if (name == names.assistant) return Role::kAssistant;
  fail(ErrorCode::kBadInput, where, ": '", names.role, "': expected ", names.system, ", ", names.user, " or ",
       names.assistant, ", got '", detail::printable(name), "'");
}

std::vector<Message> read_messages(const Json& row, const Conversation& names, const std::string& where) {
  const auto list = row.find(names.messages);
  LIGER_CHECK(list != row.end(), where, ": the field '", names.messages, "' is missing");
  LIGER_CHECK(list->is_array(), where, ": '", names.messages, "': expected a list of messages, got ",
              list->type_name());
  std::vector<Message> messages;
  for (const Json& message : *list) {
    const std::string place = cat(where, ": message ", messages.size() + 1);
    LIGER_CHECK(message.is_object(), place, ": expected an object with '", names.role, "' and '", names.text, "', got ",
                message.type_name());
    const Role role = role_of(string_field(message, names.role, place), names, place);
    messages.push_back({role, string_field(message, names.text, place)});
  }
  return messages;
}

}  // namespace

RowFormat::RowFormat(const DataOptions& options, const Tokenizer& tokenizer)
    : format_(options.format), bos_(tokenizer.bos()) {
  LIGER_CHECK(tokenizer.eos(),
              "the tokenizer names no EOS token: a model trained without one never ends its text; "
              "name it in tokenizer_config.json (eos_token)");
  eos_ = *tokenizer.eos();
  if (format_ == DataFormat::kChat || format_ == DataFormat::kSharegpt) chat_.emplace(options.chat_template, tokenizer);
}

std::vector<Segment> RowFormat::told(std::vector<Segment> texts) const {
  if (bos_) texts.insert(texts.begin(), Segment::special(*bos_, false));
  texts.push_back(Segment::special(eos_, true));
  return texts;
}

std::vector<Segment> RowFormat::segments(const Json& row, const std::string& where) const {
  const auto field = [&](const char* key) { return string_field(row, key, where); };
  const auto chat = [&](const Conversation& names) {
    const std::vector<Message> messages = read_messages(row, names, where);
    return with_context(where, [&] { return chat_->segments(messages); });
  };
  switch (format_) {
    case DataFormat::kAlpaca: {
      const std::string prompt = alpaca_prompt(field("instruction"), row.contains("input") ? field("input") : "");
      return told({Segment::text(prompt, ""), Segment::text("", field("output"))});
    }
    case DataFormat::kCompletion:
      return told({Segment::text(field("prompt"), ""), Segment::text("", field("completion"))});
    case DataFormat::kText: return told({Segment::text("", field("text"))});
    case DataFormat::kChat: return chat(kChat);
    case DataFormat::kSharegpt: return chat(kSharegpt);
  }
  fail(ErrorCode::kInternal, "data.format without a meaning");
}

std::string RowFormat::name() const {
  switch (format_) {
    case DataFormat::kAlpaca: return "alpaca";
    case DataFormat::kCompletion: return "completion";
    case DataFormat::kText: return "text";
    case DataFormat::kChat: return cat("chat, ", chat_->name());
    case DataFormat::kSharegpt: return cat("sharegpt, ", chat_->name());
  }
  fail(ErrorCode::kInternal, "data.format without a name");
}

EncodedRow encode(const std::vector<Segment>& segments, const Tokenizer& tokenizer) {
  EncodedRow row;
  for (const Segment& segment : segments) {
    if (segment.token) {
      row.tokens.push_back(*segment.token);
      row.learned.push_back(segment.learned);
      continue;
    }
    const std::vector<int64_t> ids = tokenizer.encode(segment.prompt + segment.output);
    size_t known = segment.output.empty() ? ids.size() : 0;
    if (!segment.prompt.empty() && !segment.output.empty()) {
      const std::vector<int64_t> prompt = tokenizer.encode(segment.prompt);
      known = static_cast<size_t>(std::ranges::mismatch(ids, prompt).in1 - ids.begin());
    }
    row.tokens.insert(row.tokens.end(), ids.begin(), ids.end());
    row.learned.insert(row.learned.end(), known, false);
    row.learned.insert(row.learned.end(), ids.size() - known, true);
  }
  return row;
}

}  // namespace liger
