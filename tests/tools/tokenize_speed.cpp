// tokenize_speed DIR FILE [BYTES]: how fast the tokenizer of DIR reads FILE, cut behind the first line end after each
// BYTES (default 4096; 0: in one piece), on one thread; prints
//   {"megabytes": of text, "encode_seconds": of the processor, best of three, "decode_seconds": same, "tokens": in all}
#include <algorithm>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "liger/io/tokenizer.h"

namespace {

std::vector<std::string_view> documents(std::string_view text, size_t bytes) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const size_t line = bytes == 0 ? std::string_view::npos : text.find('\n', bytes);
    out.push_back(text.substr(0, line == std::string_view::npos ? text.size() : line + 1));
    text.remove_prefix(out.back().size());
  }
  return out;
}

template <typename Work>
double best_of_three(Work&& work) {
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    const std::clock_t start = std::clock();
    work();
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    best = round == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 4) {
    std::cerr << "usage: tokenize_speed DIR FILE [BYTES]\n";
    return 2;
  }
  const auto tokenizer = liger::Tokenizer::load(argv[1]);
  const std::string text = liger::read_text(argv[2]);
  const auto parts = documents(text, argc == 4 ? std::stoul(argv[3]) : 4096);
  std::vector<std::vector<int64_t>> ids(parts.size());
  const double encode = best_of_three([&] {
    for (size_t i = 0; i < parts.size(); ++i) ids[i] = tokenizer->encode(parts[i]);
  });
  size_t tokens = 0, bytes = 0;
  for (const auto& list : ids) tokens += list.size();
  const double decode = best_of_three([&] {
    for (const auto& list : ids) bytes += tokenizer->decode(list).size();
  });
  std::cout << liger::Json{{"megabytes", static_cast<double>(text.size()) / 1e6},
                           {"encode_seconds", encode},
                           {"decode_seconds", decode},
                           {"tokens", tokens}}
                   .dump()
            << '\n';
  return bytes == 0 ? 1 : 0;
} catch (const liger::Error& e) {
  std::cerr << "error: " << e.what() << '\n';
  return static_cast<int>(e.code());
}
