#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/metrics.h"
#include "liger/eval/evaluate.h"

namespace liger::eval {

/// What one document counts for in each of the task's metrics, in their order. `scores`: of its continuations, whose
/// tokens are `tokens` together.
std::vector<MetricValue> count(const Task& task, const Document& document, std::span<const Score> scores,
                               int64_t tokens);

/// The sample of lm-evaluation-harness's log: rows, requests, answers, hashes, metrics.
OrderedJson sample_of(const PreparedTask& task, const Document& document, std::span<const Score> scores,
                      std::span<const MetricValue> values);

}  // namespace liger::eval
