// Trains a tokenizer.model of Llama 2's kind: sentencepiece BPE with byte fallback, a dummy prefix, identity
// normalisation, and <unk> <s> </s> as 0, 1, 2.

#include <sentencepiece_trainer.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/jsonl.h"
#include "tool.h"

namespace {

struct Options {
  std::string data;
  std::string field = "text";
  std::string out;
  int vocab_size = 1024;
  int max_rows = 4000;
  bool overwrite = false;
};

std::vector<std::string> read_texts(const Options& options) {
  std::vector<std::string> texts;
  liger::JsonlReader reader(options.data);
  while (static_cast<int>(texts.size()) < options.max_rows) {
    const auto row = reader.next();
    if (!row) break;
    texts.push_back(liger::string_field(*row, options.field, reader.where()));
  }
  LIGER_CHECK(!texts.empty(), options.data, ": no rows; expected one object with '", options.field, "' a line");
  return texts;
}

// One thread and every sentence: the same text gives the same bytes.
std::string train(const Options& options, const std::vector<std::string>& texts) {
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "true"},
      {"remove_extra_whitespaces", "false"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"num_threads", "1"},
      {"max_sentence_length", "1000000"},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, texts, &model);
  LIGER_CHECK(status.ok(), options.data, ": sentencepiece could not train ", options.vocab_size,
              " pieces: ", status.ToString(), "; try another --vocab-size or more text");
  return model;
}

liger::OrderedJson tokenizer_config() {
  return {{"tokenizer_class", "LlamaTokenizer"},
          {"add_bos_token", true},
          {"add_eos_token", false},
          {"bos_token", "<s>"},
          {"eos_token", "</s>"},
          {"unk_token", "<unk>"},
          {"clean_up_tokenization_spaces", false},
          {"legacy", true},
          {"model_max_length", 1024}};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  liger::tool::CommonOptions common;
  CLI::App app("Trains a sentencepiece tokenizer of Llama 2's kind on the text of a jsonl file",
               "liger-train-tokenizer");
  app.add_option("--data", options.data, "jsonl file to learn from")->required()->option_text("FILE");
  app.add_option("--out", options.out, "Folder that gets tokenizer.model and tokenizer_config.json")
      ->required()
      ->option_text("DIR");
  app.add_option("--field", options.field, "Field of a row that holds the text")->capture_default_str();
  app.add_option("--vocab-size", options.vocab_size, "Pieces, the 256 byte pieces and 3 specials among them")
      ->check(CLI::Range(260, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-rows", options.max_rows, "Rows to learn from, from the start of the file")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--overwrite", options.overwrite, "Replace a tokenizer that is there");
  liger::tool::add_common_options(app, common);
  return liger::tool::run(app, common, argc, argv, [&] {
    const std::filesystem::path dir = options.out;
    for (const char* name : {"tokenizer.model", "tokenizer_config.json"}) {
      if (!options.overwrite && std::filesystem::exists(dir / name)) {
        liger::fail(liger::ErrorCode::kLocked, (dir / name).string(),
                    ": exists; choose another --out, or replace it with --overwrite");
      }
    }
    const std::string model = train(options, read_texts(options));
    std::filesystem::create_directories(dir);
    liger::write_text_atomic(dir / "tokenizer.model", model);
    liger::write_text_atomic(dir / "tokenizer_config.json", tokenizer_config().dump(2) + "\n");
    const liger::OrderedJson result = {{"out", options.out}, {"vocab_size", options.vocab_size}};
    if (common.json) liger::tool::print_json(result);
  });
}
