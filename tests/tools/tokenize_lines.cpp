// tokenize_lines DIR < lines > lines: what the tokenizer of DIR makes of each line, for comparing with other
// implementations. A line is a JSON string, answered by
//   {"ids": literal, "parsed": with special tokens, "whole": those with what the tokenizer adds, "text": decoded}
// or a JSON array of ids, answered by {"text": ..., "kept": with special tokens, "streamed": ...}.
#include <iostream>
#include <string>

#include "liger/error.h"
#include "liger/io/json.h"
#include "liger/io/tokenizer.h"

namespace {

std::string streamed(const liger::Tokenizer& tokenizer, const std::vector<int64_t>& ids) {
  liger::StreamDecoder stream(tokenizer);
  std::string text;
  for (const int64_t id : ids) text += stream.push(id);
  return text + stream.flush();
}

liger::Json answer(const liger::Tokenizer& tokenizer, const liger::Json& line) {
  if (line.is_array()) {
    const auto ids = line.get<std::vector<int64_t>>();
    return {
        {"text", tokenizer.decode(ids)}, {"kept", tokenizer.decode(ids, true)}, {"streamed", streamed(tokenizer, ids)}};
  }
  const auto text = line.get<std::string>();
  const auto parsed = tokenizer.encode(text, liger::Specials::kParse);
  return {{"ids", tokenizer.encode(text)},
          {"parsed", parsed},
          {"whole", tokenizer.encode_with_specials(text, liger::Specials::kParse)},
          {"text", tokenizer.decode(parsed)}};
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines DIR < lines\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  const auto tokenizer = liger::Tokenizer::load(argv[1]);
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(*tokenizer, liger::parse_json(line, "stdin")).dump() << '\n';
  }
  return 0;
} catch (const liger::Error& e) {
  std::cerr << "error: " << e.what() << '\n';
  return static_cast<int>(e.code());
}
