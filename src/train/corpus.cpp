#include <ATen/Parallel.h>

#include <limits>

#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/io/jsonl.h"
#include "liger/train/dataset.h"

namespace liger {
namespace {

constexpr int64_t kRowsAtATime = 512;

struct Text {
  std::string prompt, output;
  bool has_prompt = false;
  int64_t line = 0;
};

struct Encoded {
  std::vector<int64_t> prompt, output;
};

// The template of Stanford Alpaca, which the public instruction data sets are written for.
std::string alpaca_prompt(const std::string& instruction, const std::string& input) {
  if (input.empty()) {
    return cat(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n", instruction, "\n\n### Response:\n");
  }
  return cat(
      "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response that appropriately completes the request.\n\n### Instruction:\n", instruction, "\n\n### Input:\n",
      input, "\n\n### Response:\n");
}

Text row_text(const Json& row, DataFormat format, const JsonlReader& reader) {
  const auto field = [&](const char* key) { return string_field(row, key, reader.where()); };
  Text text;
  text.line = reader.line();
  switch (format) {
    case DataFormat::kAlpaca:
      text.prompt = alpaca_prompt(field("instruction"), row.contains("input") ? field("input") : "");
      text.output = field("output");
      text.has_prompt = true;
      break;
    case DataFormat::kCompletion:
      text.prompt = field("prompt");
      text.output = field("completion");
      text.has_prompt = true;
      break;
    case DataFormat::kText:
      text.output = field("text");
      break;
  }
  return text;
}

std::vector<Encoded> encode(const std::vector<Text>& texts, const Tokenizer& tokenizer) {
  std::vector<Encoded> encoded(texts.size());
  at::parallel_for(0, static_cast<int64_t>(texts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (texts[i].has_prompt) encoded[i].prompt = tokenizer.encode(texts[i].prompt);
      encoded[i].output = tokenizer.encode(texts[i].output);
    }
  });
  return encoded;
}

}  // namespace

Corpus::Corpus(const std::filesystem::path& file, DataFormat format, const Tokenizer& tokenizer, int64_t vocab_size)
    : file_(file) {
  LIGER_CHECK(tokenizer.eos(), "the tokenizer names no EOS token: a model trained without one never ends its text; "
              "name it in tokenizer_config.json (eos_token)");
  JsonlReader reader(file);
  const auto add = [&](int64_t token, bool learned, int64_t line) {
    LIGER_CHECK(token < vocab_size, file.string(), ":", line, ": the tokenizer gives token ", token,
                ", but the model has vocab_size ", vocab_size, ": they do not belong together");
    tokens_.push_back(static_cast<int32_t>(token));
    learned_.push_back(learned);
  };
  std::vector<Text> texts;
  bool more = true;
  while (more) {
    throw_if_interrupted();
    texts.clear();
    while (static_cast<int64_t>(texts.size()) < kRowsAtATime) {
      const std::optional<Json> row = reader.next();
      if (!(more = row.has_value())) break;
      texts.push_back(row_text(*row, format, reader));
    }
    const std::vector<Encoded> encoded = encode(texts, tokenizer);
    for (size_t i = 0; i < texts.size(); ++i) {
      const int64_t line = texts[i].line;
      if (tokenizer.bos()) add(*tokenizer.bos(), false, line);
      for (const int64_t token : encoded[i].prompt) add(token, false, line);
      for (const int64_t token : encoded[i].output) add(token, true, line);
      add(*tokenizer.eos(), true, line);
      ends_.push_back(static_cast<int64_t>(tokens_.size()));
      lines_.push_back(line);
    }
  }
  LIGER_CHECK(rows() > 0, file.string(), ": expected one JSON object a line, got no row at all");
}

std::string Corpus::where(int64_t row) const { return cat(file_.string(), ":", lines_[row]); }

}  // namespace liger
