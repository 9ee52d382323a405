#pragma once

#include <fstream>

#include "liger/io/tokenizer.h"
#include "random_model.h"

namespace liger::test {

/// A Hugging Face folder with random weights and the small Llama 3 tokenizer of the test data: what the tools open.
inline void write_model_folder(const std::filesystem::path& dir, std::optional<LigerConfig> liger = {},
                               uint64_t seed = 0) {
  const std::filesystem::path tokenizer = std::filesystem::path(LIGER_TEST_DATA) / "tokenizers" / "llama3";
  std::filesystem::create_directories(dir);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    std::filesystem::copy_file(tokenizer / name, dir / name);
  }
  const auto loaded = Tokenizer::load(dir);
  ModelConfig config = random_config(loaded->vocab_size(), std::move(liger));
  config.bos_token_id = loaded->bos();
  config.eos_token_ids = {*loaded->eos()};
  config.stored_dtype = "float32";
  random_model(config, seed)->save_weights(dir / "model.safetensors");
  std::ofstream(dir / "config.json") << config.to_json().dump(2) << "\n";
}

}  // namespace liger::test
