#include "liger/generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "liger/error.h"
#include "ops/choose_tokens.h"

namespace liger {
namespace {

// Falling order of weight, equal ones by id.
bool before(const Candidate& a, const Candidate& b) { return a.weight != b.weight ? a.weight > b.weight : a.id < b.id; }

double mass(const std::vector<Candidate>& tokens) {
  double total = 0.0;
  for (const Candidate& token : tokens) total += token.weight;
  return total;
}

void keep_top_k(std::vector<Candidate>& tokens, int64_t k) {
  if (k == 0 || k >= std::ssize(tokens)) return;
  std::nth_element(tokens.begin(), tokens.begin() + (k - 1), tokens.end(), before);
  tokens.resize(static_cast<size_t>(k));
}

// By a heap: the beginning that is kept is mostly short, and sorting a large vocabulary for it would cost more than
// the rest of the step.
void keep_top_p(std::vector<Candidate>& tokens, double top_p) {
  if (top_p >= 1.0) return;
  const double wanted = top_p * mass(tokens);
  const auto after = [](const Candidate& a, const Candidate& b) { return before(b, a); };
  std::make_heap(tokens.begin(), tokens.end(), after);
  auto heap_end = tokens.end();
  double reached = 0.0;
  do {
    std::pop_heap(tokens.begin(), heap_end, after);
    --heap_end;
    reached += heap_end->weight;
  } while (reached < wanted && heap_end != tokens.begin());
  tokens.erase(tokens.begin(), heap_end);
}

}  // namespace

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  // Not infinite, so that 0 * inverse stays 0.
  const auto inverse = static_cast<float>(std::min(1.0 / options.temperature, 1e38));
  std::vector<Candidate> tokens;
  tokens.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    const float weight = std::exp((logits[id] - highest) * inverse);
    if (weight > 0.0f) tokens.push_back({static_cast<int64_t>(id), weight});
  }
  keep_top_k(tokens, options.top_k);
  keep_top_p(tokens, options.top_p);
  std::erase_if(tokens, [&](const Candidate& token) { return token.weight < options.min_p; });
  std::sort(tokens.begin(), tokens.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  return tokens;
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  LIGER_CHECK_USAGE(options.temperature >= 0 && std::isfinite(options.temperature),
                    "temperature must be 0 or more, got ", options.temperature);
  LIGER_CHECK_USAGE(options.top_k >= 0, "top-k must be 0 (all tokens) or more, got ", options.top_k);
  LIGER_CHECK_USAGE(options.top_p > 0 && options.top_p <= 1, "top-p must be above 0 and at most 1, got ",
                    options.top_p);
  LIGER_CHECK_USAGE(options.min_p >= 0 && options.min_p <= 1, "min-p must be between 0 and 1, got ", options.min_p);
}

int64_t Sampler::sample(const at::Tensor& logits) {
  const at::Tensor values = logits.reshape({-1}).to(at::kCPU, at::kFloat).contiguous();
  const std::span<const float> row(values.const_data_ptr<float>(), static_cast<size_t>(values.numel()));
  const int64_t highest = choose_tokens(values.unsqueeze(0)).front().first;
  if (options_.temperature == 0) return highest;
  const std::vector<Candidate> tokens = candidates(row, options_);
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;  // [0, 1)
  double left = uniform * mass(tokens);
  for (const Candidate& token : tokens) {
    left -= token.weight;
    if (left < 0) return token.id;
  }
  return tokens.back().id;
}

}  // namespace liger
