#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "liger/eval/request.h"

namespace liger {

class CausalLM;

struct Score {
  double log_likelihood = 0.0;  ///< of all tokens of the continuation, in nats
  bool greedy = true;           ///< each of them is the most probable one (the first of equals)
};

/// Whether what several requests begin with is read once: softmax attention sees its keys where they are, a recurrence
/// goes on from copies of its state.
enum class PrefixSharing {
  kNone,         ///< each request on its own
  kWhereFaster,  ///< where that saves more than it costs
  kAlways,
};

struct ScoringOptions {
  /// Sequences that go through the model together; 0 = as many as `tokens_per_batch` allows, a shared prefix counted
  /// once.
  int64_t batch_size = 0;
  int64_t tokens_per_batch = 4096;
  /// Log-softmax in the model's dtype instead of (at least) float32, as lm-evaluation-harness does by default.
  bool model_softmax = false;
  PrefixSharing sharing = PrefixSharing::kWhereFaster;
  /// Asked for what is known of a request from before. What goes through the model together is decided without it, and
  /// left out only if all of it is known, so that the scores of a run that goes on are those of one that was not
  /// stopped.
  std::function<std::optional<Score>(int64_t)> known = {};
  /// Called with a request's number and score as soon as it is known, in the order in which that happens.
  std::function<void(int64_t, const Score&)> finished = {};
};

/// Scores every request; the result does not depend on how requests are batched or shared, up to rounding. `progress`
/// is called with the number of requests done. Throws Error(kBadInput) if the model's output is not finite,
/// Error(kCancelled) after a signal.
std::vector<Score> score(CausalLM& model, std::span<const ScoreRequest> requests, const ScoringOptions& options = {},
                         const std::function<void(int64_t)>& progress = {});

}  // namespace liger
