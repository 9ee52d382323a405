#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "liger/eval/scoring.h"
#include "liger/eval/task.h"

namespace liger::eval {

double mean(const std::vector<double>& values);
/// s / sqrt(n) with s over n - 1; absent for fewer than two values.
std::optional<double> mean_standard_error(const std::vector<double>& values);

/// The first choice with the highest log-likelihood, divided by its length in code points if `by_length`.
int64_t best_choice(std::span<const Score> scores, const Question& question, bool by_length);

}  // namespace liger::eval
