// tokenize_rows DIR FILE FORMAT [TEMPLATE]: the tokens liger-finetune makes of the rows of FILE (data.format FORMAT,
// data.template TEMPLATE) with the tokenizer of DIR; a line a row:
//   {"ids": [...], "learned": [0 or 1, ...]}
// and of conversations also {"text": TEXT, "prompt": TEXT with the beginning of the next turn}.
#include <iostream>
#include <optional>
#include <string>

#include "liger/error.h"
#include "liger/io/chat_template.h"
#include "liger/io/jsonl.h"
#include "liger/io/settings.h"
#include "train/row_format.h"

namespace {

std::vector<liger::Message> messages_of(const liger::Json& row) {
  std::vector<liger::Message> messages;
  for (const auto& message : row.at("messages")) {
    const std::string role = message.at("role");
    messages.push_back({role == "system" ? liger::Role::kSystem
                        : role == "user" ? liger::Role::kUser
                                         : liger::Role::kAssistant,
                        message.at("content")});
  }
  return messages;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4 && argc != 5) {
    std::cerr << "usage: tokenize_rows DIR FILE FORMAT [TEMPLATE]\n";
    return 2;
  }
  using namespace liger;
  Settings settings = Settings::from_yaml("model: {path: m}\nsave: {dir: d}\n", "tokenize_rows");
  settings.override_with(cat("data.train=", Json(argv[2]).dump()));
  settings.override_with(cat("data.format=", argv[3]));
  if (argc == 5) settings.override_with(cat("data.template=", argv[4]));
  const auto tokenizer = Tokenizer::load(argv[1]);
  const RowFormat format(read_finetune_options(settings).data, *tokenizer);
  std::optional<ChatFormat> chat;
  if (std::string_view(argv[3]) == "chat") {
    chat.emplace(argc == 5 ? chat_template_named(argv[4], "TEMPLATE") : ChatTemplate::kFromTokenizer, *tokenizer);
  }
  JsonlReader reader(argv[2]);
  while (const auto row = reader.next()) {
    const EncodedRow encoded = encode(format.segments(*row, reader.where()), *tokenizer);
    const std::vector<int> learned(encoded.learned.begin(), encoded.learned.end());
    Json answer = {{"ids", encoded.tokens}, {"learned", learned}};
    if (chat) {
      const auto messages = messages_of(*row);
      answer["text"] = chat_text(*chat, *tokenizer, messages, false);
      answer["prompt"] = chat_text(*chat, *tokenizer, messages, true);
    }
    std::cout << answer.dump() << "\n";
  }
} catch (const liger::Error& e) {
  std::cerr << "error: " << e.what() << "\n";
  return static_cast<int>(e.code());
}
