#include "liger/eval/request.h"

#include <algorithm>
#include <iterator>

#include "eval/python_text.h"
#include "liger/error.h"
#include "liger/io/tokenizer.h"

namespace liger {
namespace {

int64_t prefix_of(const Tokenizer& tokenizer) {
  const auto first = first_token(tokenizer);
  LIGER_CHECK(first.has_value(), "the tokenizer has neither a BOS nor an EOS token to begin a text with");
  return *first;
}

}  // namespace

RequestEncoder::RequestEncoder(const Tokenizer& tokenizer, int64_t max_length)
    : tokenizer_(tokenizer), max_length_(max_length), prefix_(prefix_of(tokenizer)) {}

ScoreRequest RequestEncoder::encode(std::string_view context, std::string_view continuation) const {
  ScoreRequest request;
  if (context.empty()) {
    request.context = {prefix_};
    request.continuation = tokenizer_.encode(continuation, Specials::kParse);
    if (!request.continuation.empty() && request.continuation.front() == prefix_) {
      request.continuation.erase(request.continuation.begin());
    }
  } else {
    const std::string whole = std::string(context) + std::string(continuation);
    context.remove_suffix(eval::trailing_space_bytes(context));
    request.context = encode_whole(tokenizer_, context);
    const std::vector<int64_t> ids = encode_whole(tokenizer_, whole);
    request.continuation.assign(ids.begin() + std::min(ids.size(), request.context.size()), ids.end());
  }
  const int64_t predicted = std::ssize(request.continuation);
  LIGER_CHECK(!request.context.empty(), "the context '", context, "' has no tokens, and the tokenizer adds no BOS");
  LIGER_CHECK(predicted > 0, "the continuation '", continuation, "' adds no token to its context");
  LIGER_CHECK(predicted <= max_length_, "the continuation '", continuation.substr(0, 60), "...' has ", predicted,
              " tokens, more than the ", max_length_, " positions of the model");
  const int64_t over = std::ssize(request.context) + predicted - (max_length_ + 1);
  if (over > 0) request.context.erase(request.context.begin(), request.context.begin() + over);
  return request;
}

std::vector<ScoreRequest> RequestEncoder::encode_document(std::string_view text) const {
  return rolling_windows(tokenizer_.encode(text, Specials::kLiteral), prefix_, max_length_);
}

std::vector<ScoreRequest> RequestEncoder::encode_rolling(std::string_view text) const {
  return rolling_windows(encode_whole(tokenizer_, text), prefix_, max_length_);
}

std::vector<ScoreRequest> rolling_windows(std::span<const int64_t> tokens, int64_t prefix, int64_t max_length) {
  std::vector<ScoreRequest> windows;
  const int64_t count = std::ssize(tokens);
  int64_t done = std::min(count, max_length);
  if (done > 0) windows.push_back({{prefix}, {tokens.begin(), tokens.begin() + done}});
  while (done < count) {
    const int64_t end = std::min(count, done + max_length);
    const int64_t start = end - max_length - 1;
    windows.push_back({{tokens.begin() + start, tokens.begin() + done}, {tokens.begin() + done, tokens.begin() + end}});
    done = end;
  }
  return windows;
}

}  // namespace liger
