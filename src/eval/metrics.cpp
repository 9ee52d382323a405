#include "eval/metrics.h"

#include <cmath>
#include <numeric>

#include "eval/python_text.h"

namespace liger::eval {

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::optional<double> mean_standard_error(const std::vector<double>& values) {
  if (values.size() < 2) return std::nullopt;
  const double center = mean(values), n = static_cast<double>(values.size());
  double squares = 0.0;
  for (const double value : values) squares += (value - center) * (value - center);
  return std::sqrt(squares / (n - 1)) / std::sqrt(n);
}

int64_t best_choice(std::span<const Score> scores, const Question& question, bool by_length) {
  int64_t best = 0;
  double highest = 0.0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double length = by_length ? static_cast<double>(code_points(question.choices[i])) : 1.0;
    const double value = scores[i].log_likelihood / length;
    if (i == 0 || value > highest) {
      best = static_cast<int64_t>(i);
      highest = value;
    }
  }
  return best;
}

}  // namespace liger::eval
