#include "io/bpe_tokenizer.h"
#include "tokenizer_use.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const liger::detail::TokenizerConfig config("/nonexistent");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  liger::fuzz::accept_or_refuse([&] {
    const liger::detail::BpeTokenizer tokenizer(liger::parse_json(text, "input"), config);
    liger::fuzz::use(tokenizer, liger::fuzz::kText);
    liger::fuzz::use(tokenizer, text.substr(0, 256));
  });
  return 0;
}
