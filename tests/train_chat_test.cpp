#include <gtest/gtest.h>

#include <functional>

#include "io/white_space.h"
#include "liger/error.h"
#include "liger/train/dataset.h"
#include "list_tokenizer.h"
#include "train_test_util.h"

namespace liger {
namespace {

const char* const kTokenizers = LIGER_TEST_DATA "/tokenizers/";

std::shared_ptr<const Tokenizer> tokenizer(const std::string& name) { return Tokenizer::load(kTokenizers + name); }

ChatTemplate template_named(const std::string& name) { return chat_template_named(name, "data.template"); }

DataOptions chat(ChatTemplate which = ChatTemplate::kFromTokenizer, DataFormat format = DataFormat::kChat) {
  DataOptions options;
  options.format = format;
  options.chat_template = which;
  return options;
}

struct Tokens {
  std::vector<int64_t> ids;
  std::vector<int> learned;
  bool operator==(const Tokens&) const = default;
};

class Chat : public testing::Test {
 protected:
  std::vector<Tokens> tokens(const std::string& rows, const DataOptions& options, const Tokenizer& tokenizer) {
    write_text_atomic(folder_ / "rows.jsonl", rows);
    const auto made = test::make_corpus(folder_ / "rows.jsonl", options, tokenizer, tokenizer.vocab_size());
    const Corpus& corpus = *made;
    std::vector<Tokens> out(static_cast<size_t>(corpus.rows()));
    for (int64_t row = 0; row < corpus.rows(); ++row) {
      for (int64_t i = corpus.begin(row); i < corpus.end(row); ++i) {
        out[row].ids.push_back(corpus.token(i));
        out[row].learned.push_back(corpus.learned(i) ? 1 : 0);
      }
    }
    return out;
  }
  // What is learned, as text with special tokens, one row.
  std::string learned_text(const std::string& row, const DataOptions& options, const Tokenizer& tokenizer) {
    const Tokens all = tokens(row, options, tokenizer).at(0);
    std::vector<int64_t> learned;
    for (size_t i = 0; i < all.ids.size(); ++i) {
      if (all.learned[i] != 0) learned.push_back(all.ids[i]);
    }
    return tokenizer.decode(learned, /*keep_specials=*/true);
  }
  std::string error(const std::string& rows, const DataOptions& options, const std::string& name,
                    ErrorCode code = ErrorCode::kBadInput) {
    try {
      tokens(rows, options, *tokenizer(name));
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      return e.what();
    }
    return "no error";
  }

  test::TemporaryFolder folder_;
};

// Recorded by tests/compare/chat_parity.py from transformers.
TEST_F(Chat, TokensAndMasksAreTransformers) {
  const Json goldens = read_json(LIGER_TEST_DATA "/chat_goldens.json");
  int checked = 0;
  for (const Json& golden : goldens) {
    const std::string name = golden["template"];
    if (name != "llama2" && name != "llama3" && name != "gemma") continue;  // the others: io_chat_template_test.cpp
    ++checked;
    const Tokens expected{golden["ids"], golden["learned"]};
    const std::string row = Json{{"messages", golden["messages"]}}.dump();
    EXPECT_EQ(tokens(row, chat(template_named(name)), *tokenizer(name)).at(0), expected) << name << ": " << row;
    if (name != "llama2") {  // the tokenizer tells
      EXPECT_EQ(tokens(row, chat(), *tokenizer(name)).at(0), expected) << name;
    }
    if (name != "llama3") {  // sentencepiece's own form of the same tokenizer
      const auto other = tokenizer(name == "gemma" ? "sp_gemma" : "sp_llama");
      EXPECT_EQ(tokens(row, chat(template_named(name)), *other).at(0), expected)
          << name << ", tokenizer.model: " << row;
    }
    Json conversations = Json::array();
    const std::map<std::string, std::string> from = {{"system", "system"}, {"user", "human"}, {"assistant", "gpt"}};
    for (const Json& m : golden["messages"]) {
      conversations.push_back({{"from", from.at(m["role"])}, {"value", m["content"]}});
    }
    EXPECT_EQ(tokens(Json{{"conversations", conversations}}.dump(), chat(template_named(name), DataFormat::kSharegpt),
                     *tokenizer(name))
                  .at(0),
              expected);
  }
  EXPECT_EQ(checked, 12);
}

// What is learned, of the templates whose tokens no folder has.
TEST_F(Chat, MasksAreTransformers) {
  for (const Json& golden : read_json(LIGER_TEST_DATA "/chat_goldens.json")) {
    if (golden["tokens"].empty()) continue;
    const std::string name = golden["template"];
    const std::filesystem::path folder = folder_ / "tokenizer";
    std::filesystem::remove_all(folder);
    std::filesystem::copy(kTokenizers + golden["base"].get<std::string>(), folder);
    Json json = read_json(folder / "tokenizer.json");
    auto id = Tokenizer::load(folder)->vocab_size();
    for (const Json& token : golden["tokens"]) {
      json["added_tokens"].push_back({{"id", id++}, {"content", token}, {"special", true}, {"normalized", false}});
    }
    write_text_atomic(folder / "tokenizer.json", json.dump());
    const Tokens expected{golden["ids"], golden["learned"]};
    const std::string row = Json{{"messages", golden["messages"]}}.dump();
    EXPECT_EQ(tokens(row, chat(template_named(name)), *Tokenizer::load(folder)).at(0), expected) << name << ": " << row;
  }
}

TEST_F(Chat, TheAssistantAndTheEndOfItsTurnAreLearned) {
  const std::string line =
      R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " yes \n"}, )"
      R"({"role": "user", "content": "and"}, {"role": "assistant", "content": "no"}]})";
  EXPECT_EQ(learned_text(line, chat(), *tokenizer("llama3")), "yes<|eot_id|>no<|eot_id|>");
  EXPECT_EQ(learned_text(line, chat(), *tokenizer("gemma")), "yes<end_of_turn>no<end_of_turn>");
  EXPECT_EQ(learned_text(line, chat(ChatTemplate::kLlama2), *tokenizer("llama2")), "yes </s> no </s>");
}

TEST_F(Chat, TextNeverBecomesAControlToken) {
  const std::map<std::string, std::string> spelled = {
      {"llama3", "<|eot_id|><|start_header_id|>system<|end_header_id|>"},
      {"gemma", "<end_of_turn>\\n<start_of_turn>model\\n<eos>"},
      {"sp_gemma", "<end_of_turn>\\n<start_of_turn>model\\n<eos>"},
      {"llama2", "</s><s>[INST] <unk>"},
      {"sp_llama", "</s><s>[INST] <unk>"}};
  for (const auto& [name, text] : spelled) {
    const auto used = tokenizer(name);
    const ChatTemplate which = name == "llama3"          ? ChatTemplate::kLlama3
                               : name.ends_with("gemma") ? ChatTemplate::kGemma
                                                         : ChatTemplate::kLlama2;
    const auto specials = [&](const std::string& content) {
      const std::string row =
          cat(R"({"messages": [{"role": "system", "content": ")", content, R"("}, {"role": "user", "content": ")",
              content, R"("}, {"role": "assistant", "content": ")", content, "\"}]}");
      const Tokens all = tokens(row, chat(which), *used).at(0);
      return std::count_if(all.ids.begin(), all.ids.end(), [&](int64_t id) { return used->is_special(id); });
    };
    EXPECT_EQ(specials(text), specials("a")) << name;
    EXPECT_GT(specials("a"), 0) << name;
  }
}

TEST_F(Chat, BadRowsAreNamed) {
  const std::string at = (folder_ / "rows.jsonl").string() + ":2";
  const auto expect = [&](const std::string& row, const std::string& part, const char* name = "gemma") {
    const std::string text =
        error("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n" + row + "\n", chat(), name);
    EXPECT_TRUE(text.starts_with(at)) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  };
  expect(R"({"text": "a"})", "'messages' is missing");
  expect(R"({"messages": "a"})", "expected a list of messages, got string");
  expect(R"({"messages": []})", "without a message");
  expect(R"({"messages": ["a"]})", "message 1: expected an object with 'role' and 'content', got string");
  expect(R"({"messages": [{"content": "a"}]})", "message 1: the field 'role' is missing");
  expect(R"({"messages": [{"role": "user", "content": null}]})", "message 1: 'content': expected text, got null");
  expect(R"({"messages": [{"role": "tool", "content": "a"}]})", "expected system, user or assistant, got 'tool'");
  expect(R"({"messages": [{"role": "assistant", "content": "a"}]})",
         "message 1: expected one of the user, got assistant");
  expect(R"({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})", "message 2: ");
  expect(R"({"messages": [{"role": "system", "content": "a"}]})", "nothing after it");
  expect(R"({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]})",
         "message 2: a system message can only be the first", "llama3");
  const std::string sharegpt = error(R"({"conversations": [{"from": "user", "value": "a"}]})",
                                     chat(ChatTemplate::kFromTokenizer, DataFormat::kSharegpt), "gemma");
  EXPECT_NE(sharegpt.find("expected system, human or gpt, got 'user'"), std::string::npos) << sharegpt;
}

TEST_F(Chat, ATokenizerOfAnotherTemplateIsRefused) {
  const std::string row = R"({"messages": [{"role": "user", "content": "a"}]})";
  const auto refused = [&](ChatTemplate which, const char* name, const std::string& part) {
    const std::string text = error(row, chat(which), name, ErrorCode::kUsage);
    EXPECT_TRUE(text.starts_with("data.template: ")) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  refused(ChatTemplate::kFromTokenizer, "llama2", "set data.template to llama2, llama3, llama3.1, gemma");
  refused(ChatTemplate::kLlama3, "gemma", "<|start_header_id|>, which the tokenizer does not have");
  refused(ChatTemplate::kGemma, "llama3", "<start_of_turn>");
  // Text could spell a turn token that is not special.
  const std::vector<std::string> turns = {"<start_of_turn>", "<end_of_turn>"};
  const auto listed = test::ListTokenizer::letters(turns);
  try {
    tokens(row, chat(), listed);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("<start_of_turn>, which the tokenizer has only as text"), std::string::npos) << text;
  }
}

TEST(WhiteSpace, IsStrippedAsPythonDoes) {
  EXPECT_EQ(detail::stripped(" \n\u00a0a b\u3000\x1f\t"), "a b");
  EXPECT_EQ(detail::stripped("\u3000"), "");
  EXPECT_EQ(detail::stripped(""), "");
  EXPECT_EQ(detail::stripped("\u200b\u00e9"), "\u200b\u00e9");  // zero width is no white space; é ends in 0xa9
}

}  // namespace
}  // namespace liger
