#pragma once

#include <string>
#include <string_view>

#include "fuzz_util.h"
#include "liger/io/tokenizer.h"

namespace liger::fuzz {

inline constexpr std::string_view kText =
    "A tiger's  caf\u00e9 e\u0301\u0323 \u864e <s>12\r\n\t\ud55c\u1112 \xFF </s> a";

/// Whatever a tokenizer is made of: text becomes ids of the vocabulary, and those become text, streamed or not.
inline void use(const Tokenizer& tokenizer, std::string_view text) {
  for (const auto specials : {Specials::kLiteral, Specials::kParse}) {
    const auto ids = tokenizer.encode_with_specials(text, specials);
    std::string streamed;
    StreamDecoder stream(tokenizer);
    for (const int64_t id : ids) {
      require(id >= 0 && id < tokenizer.vocab_size(), "ids are of the vocabulary");
      tokenizer.token(id);
      streamed += stream.push(id);
    }
    require(streamed + stream.flush() == tokenizer.decode(ids), "a stream gives what decode() does");
  }
}

}  // namespace liger::fuzz
