// tokenize_rows DIR FILE FORMAT [TEMPLATE]: the tokens liger-finetune makes of the rows of FILE (data.format FORMAT,
// data.template TEMPLATE) with the tokenizer of DIR; a line a row:
//   {"ids": [...], "learned": [0 or 1, ...]}
#include <iostream>
#include <string>

#include "liger/error.h"
#include "liger/io/settings.h"
#include "liger/train/dataset.h"

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
  const Corpus corpus(argv[2], read_finetune_options(settings).data, *tokenizer, tokenizer->vocab_size());
  for (int64_t row = 0; row < corpus.rows(); ++row) {
    Json ids = Json::array(), learned = Json::array();
    for (int64_t i = corpus.begin(row); i < corpus.end(row); ++i) {
      ids.push_back(corpus.token(i));
      learned.push_back(corpus.learned(i) ? 1 : 0);
    }
    std::cout << Json{{"ids", ids}, {"learned", learned}}.dump() << "\n";
  }
} catch (const liger::Error& e) {
  std::cerr << "error: " << e.what() << "\n";
  return static_cast<int>(e.code());
}
