#include "liger/io/chat_template.h"

#include <set>

#include "liger/error.h"
#include "tokenizer_testing.h"

namespace liger {
namespace {

std::vector<Message> messages_of(const Json& rows) {
  std::vector<Message> messages;
  for (const Json& row : rows) {
    const std::string role = row["role"];
    messages.push_back({role == "system" ? Role::kSystem
                        : role == "user" ? Role::kUser
                                         : Role::kAssistant,
                        row["content"].get<std::string>()});
  }
  return messages;
}

/// The tokenizer of a folder of tests/data with special tokens more, and a model's own template if it is not "".
std::shared_ptr<const Tokenizer> with_tokens(const std::string& base, const Json& tokens,
                                             const std::string& jinja = "") {
  test::TokenizerFolder folder(base);
  Json json = test::tokenizer_json(base);
  auto id = static_cast<int64_t>(json["model"]["vocab"].size());
  for (const Json& token : json["added_tokens"]) id += !json["model"]["vocab"].contains(token["content"]);
  for (const Json& token : tokens) {
    json["added_tokens"].push_back({{"id", id++}, {"content", token}, {"special", true}, {"normalized", false}});
  }
  folder.put_json("tokenizer.json", json);
  if (!jinja.empty()) test::put(folder / "chat_template.jinja", jinja);
  return folder.load();
}

// Recorded by tests/compare/chat_parity.py from transformers.
TEST(ChatTemplate, TextsAreTransformers) {
  std::set<std::string> seen;
  for (const Json& golden : read_json(LIGER_TEST_DATA "/chat_goldens.json")) {
    const std::string name = golden["template"];
    seen.insert(name);
    const auto tokenizer = with_tokens(golden["base"], golden["tokens"]);
    const ChatFormat format(chat_template_named(name, "--chat-template"), *tokenizer);
    EXPECT_EQ(format.name(), name);
    const auto messages = messages_of(golden["messages"]);
    EXPECT_EQ(chat_text(format, *tokenizer, messages, false), golden["text"]) << name;
    EXPECT_EQ(chat_text(format, *tokenizer, messages, true), golden["prompt"]) << name;
    EXPECT_EQ(encode_segments(format.segments(messages), *tokenizer), golden["ids"].get<std::vector<int64_t>>())
        << name << golden["messages"];
  }
  EXPECT_EQ(seen.size(), std::size(kChatTemplates));
}

TEST(ChatTemplate, IsRecognisedByWhatOnlyItSays) {
  const Json chatml = {"<|im_start|>", "<|im_end|>"};
  const auto recognised = [&](const std::string& base, const Json& tokens, const std::string& jinja) {
    return std::string(ChatFormat(ChatTemplate::kFromTokenizer, *with_tokens(base, tokens, jinja)).name());
  };
  EXPECT_EQ(recognised("llama3", {}, ""), "llama3");
  EXPECT_EQ(recognised("gemma", {}, ""), "gemma");
  EXPECT_EQ(recognised("neox", chatml, ""), "chatml");
  EXPECT_EQ(recognised("neox", chatml, "{{ '<|im_start|>' }} ns.last_query_index"), "qwen3");
  EXPECT_EQ(recognised("neox", chatml,
                       "'<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a "
                       "helpful assistant.<|im_end|>'"),
            "qwen2.5");
  EXPECT_EQ(recognised("neox", chatml, "'<|im_start|>system\\nYou are a helpful assistant.<|im_end|>'"), "qwen2");
  EXPECT_EQ(recognised("llama3", {}, "<|start_header_id|> Cutting Knowledge Date: December 2023"), "llama3.1");
  EXPECT_EQ(recognised("llama2", {}, "'<<SYS>>\\n' '[INST] ' ' [/INST]'"), "llama2");
  EXPECT_EQ(recognised("llama2", {}, R"({{- " [INST] " + message["content"] + " [/INST]" }})"), "mistral");
  EXPECT_EQ(recognised("llama2", {}, R"({{- "[INST] " + message["content"] + "[/INST]" }})"), "mistral-v3");
  EXPECT_EQ(recognised("llama2", {}, "'<|user|>\\n' + eos_token '<|assistant|>'"), "zephyr");
}

TEST(ChatTemplate, OfAnotherKindIsNotTakenForTheNearest) {
  for (const char* jinja :
       {"'[INST]' + message.content + '[/INST]'", "'<|user|>' '<|end|>' '<|assistant|>' eos_token", "{{ messages }}"}) {
    const auto tokenizer = with_tokens("llama3", {}, jinja);
    EXPECT_LIGER_ERROR(ChatFormat(ChatTemplate::kFromTokenizer, *tokenizer, "--chat-template"), ErrorCode::kUsage,
                       "--chat-template: the model's own chat template is none of those built in");
    EXPECT_STREQ(ChatFormat(ChatTemplate::kLlama3, *tokenizer).name(), "llama3");  // told so, it is believed
  }
}

TEST(ChatTemplate, NamesAndErrors) {
  for (const auto& known : kChatTemplates) EXPECT_EQ(chat_template_named(known.name, "x"), known.which);
  EXPECT_EQ(chat_template_named("auto", "x"), ChatTemplate::kFromTokenizer);
  EXPECT_LIGER_ERROR(chat_template_named("llama9", "--chat-template"), ErrorCode::kUsage,
                     "--chat-template: 'llama9' is no template that is built in; expected auto, llama2,");
  const auto llama2 = with_tokens("llama2", {});
  EXPECT_LIGER_ERROR(ChatFormat(ChatTemplate::kFromTokenizer, *llama2), ErrorCode::kUsage, "qwen3 or zephyr");
  EXPECT_LIGER_ERROR(ChatFormat(ChatTemplate::kQwen3, *llama2), ErrorCode::kUsage,
                     "qwen3 needs the special token <|im_start|>, which the tokenizer does not have");
  const ChatFormat mistral(ChatTemplate::kMistral, *llama2), zephyr(ChatTemplate::kZephyr, *llama2);
  const std::vector<Message> twice = {{Role::kUser, "a"}, {Role::kUser, "b"}};
  EXPECT_LIGER_ERROR(mistral.segments(twice), ErrorCode::kBadInput, "message 2: expected one of the assistant");
  EXPECT_LIGER_ERROR(mistral.prompt(std::vector<Message>{}), ErrorCode::kBadInput, "without a message");
  EXPECT_EQ(chat_text(zephyr, *llama2, twice), "<|user|>\na</s>\n<|user|>\nb</s>\n<|assistant|>\n");
}

TEST(ChatTemplate, OfAFolder) {
  test::TokenizerFolder folder("llama3");
  EXPECT_EQ(folder.load()->chat_template(), "");
  const auto with = [&](const char* value) {
    test::put(folder / "tokenizer_config.json", std::string("{\"chat_template\": ") + value + "}");
    return folder.load()->chat_template();
  };
  EXPECT_EQ(with("\"text\""), "text");
  EXPECT_EQ(with(R"([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}])"), "b");
  EXPECT_EQ(with("null"), "");
  EXPECT_LIGER_ERROR(with("5"), ErrorCode::kBadInput, "chat_template: expected text or a list of templates, got 5");
  EXPECT_LIGER_ERROR(with("[1]"), ErrorCode::kBadInput, "tokenizer_config.json: chat_template");
  test::put(folder / "chat_template.jinja", "of the file");
  EXPECT_EQ(with("\"text\""), "of the file");
  EXPECT_EQ(Tokenizer::load(test::tokenizer_data() / "sp_llama")->chat_template(), "");
}

// What is said cannot end a turn or begin another.
TEST(ChatTemplate, TextStaysText) {
  for (const auto& known : kChatTemplates) {
    const bool llama3 = std::string(known.name).starts_with("llama3");
    const auto tokenizer = with_tokens(llama3                                ? "llama3"
                                       : known.which == ChatTemplate::kGemma ? "gemma"
                                                                             : "llama2",
                                       {"<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"});
    const ChatFormat format(known.which, *tokenizer);
    const auto specials = [&](const std::string& said) {
      const std::vector<Message> messages = {{Role::kUser, said}, {Role::kAssistant, said}, {Role::kUser, said}};
      int count = 0;
      for (const int64_t id : encode_segments(format.prompt(messages), *tokenizer)) count += tokenizer->is_special(id);
      return count;
    };
    std::string all = "x";
    for (int64_t id = 0; id < tokenizer->vocab_size(); ++id) {
      if (tokenizer->is_special(id)) all += tokenizer->token(id);
    }
    EXPECT_EQ(specials(all), specials("x")) << known.name;
  }
}

}  // namespace
}  // namespace liger
