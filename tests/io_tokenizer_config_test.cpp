#include <gtest/gtest.h>

#include "io_test_util.h"
#include "liger/io/json.h"
#include "liger/io/tokenizer.h"

namespace liger {
namespace {

// What transformers writes for a tokenizer without a limit.
TEST(TokenizerConfig, ALimitOf10To30IsFine) {
  const test::TempDir dir;
  const std::filesystem::path source = std::filesystem::path(LIGER_TEST_DATA) / "tokenizers" / "llama3";
  std::filesystem::copy_file(source / "tokenizer.json", dir / "tokenizer.json");
  std::ofstream(dir / "tokenizer_config.json")
      << R"({"bos_token": "<|begin_of_text|>", "model_max_length": 1000000000000000019884624838656})";
  EXPECT_EQ(Tokenizer::load(dir.path())->bos(), Tokenizer::load(source)->bos());
}

TEST(StrictJson, LongIntegersOnlyWhereAskedFor) {
  const std::string text = R"({"a": 1000000000000000019884624838656})";
  EXPECT_THROW(parse_json(text, "x"), Error);
  EXPECT_EQ(parse_json(text, "x", LongIntegers::kAsFloat).at("a").get<double>(), 1e30);
}

}  // namespace
}  // namespace liger
