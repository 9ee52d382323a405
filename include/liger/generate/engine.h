#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "liger/generate/exits.h"

namespace liger {

class CausalLM;

/// When a place in the batch is filled again (arXiv 2410.20672, figure 4).
enum class Batching {
  kStatic,    ///< when all texts of the batch have ended
  kSequence,  ///< when a text has ended, between tokens: all of a batch are in the same loop
  kDepth,     ///< when a token has left, between loops: each of a batch is in a loop of its own
};
const char* to_string(Batching batching);  ///< static, sequence, depth
/// Throws Error(kUsage) with a list of the names for others.
Batching batching_from_name(const std::string& name);

/// What becomes of the keys, values and states of loops that a token has skipped.
enum class Backfill {
  kExact,      ///< made up, in order, with the first later token of the text that comes to these loops
  kPropagate,  ///< at once, of the hidden state it left with: the attention of later tokens is approximate
};

struct Request {
  std::vector<int64_t> prompt;  ///< at least one id
  int64_t max_tokens = 256;
  double arrival = 0;  ///< seconds after the engine starts; it is not looked at before
};

struct Answer {
  std::vector<int64_t> tokens;                         ///< without the EOS that ended it
  std::string finish_reason;                           ///< "stop" (EOS) or "length"
  double admitted = 0, first_token = 0, finished = 0;  ///< seconds after the engine started
  int64_t loops = 0;                                   ///< that its tokens but the first ran before they left
};

struct EngineOptions {
  Batching batching = Batching::kDepth;
  int64_t batch = 8;                    ///< texts at a time
  std::optional<ExitPolicy> exit = {};  ///< absent = every token runs all loops
  Backfill backfill = Backfill::kExact;
  int64_t memory = 0;                 ///< bytes that texts may come to together (Engine::text_bytes()); 0 = no limit
  std::vector<int64_t> end_ids = {};  ///< tokens that end a text
};

/// What the work was: passes of the shared layers over the batch, and what they held.
struct EngineStats {
  int64_t passes = 0;
  int64_t rows = 0;      ///< tokens in these passes, one for each loop it is in
  int64_t backfill = 0;  ///< of these, tokens that had left before
  int64_t tokens = 0;    ///< generated in passes
  int64_t judged = 0;    ///< rows whose next token was asked for: after the last loop, or to see whether it may leave
  double seconds = 0, prefill_seconds = 0;
  double layer_seconds = 0, judge_seconds = 0;  ///< in passes, and in the head with what chooses and judges tokens
  int64_t most_bytes =
      0;  ///< of keys, values, states and tokens that wait for loops they skipped, of all texts at once
  std::vector<int64_t> left;  ///< tokens that left after each loop
};

/// Continuous depth-wise batching of a recursive model on the CPU or a GPU: the unit of work is one pass of the shared
/// layers over all texts of the batch, whatever loop each is in. A model that is not recursive has one loop.
/// Each text is what it would be alone, with the most probable token taken, up to the rounding of larger products.
class Engine {
 public:
  /// Throws Error(kUsage) for options out of range, an exit policy for a model without loops one after the other, or an
  /// adapter that it cannot run (DoRA).
  Engine(CausalLM& model, EngineOptions options);
  /// The answers in the order of the requests. Throws Error(kUsage) for a request that could never be admitted, and
  /// Error(kCancelled) after a signal. `on_answer` is told each as it is finished.
  std::vector<Answer> run(const std::vector<Request>& requests,
                          const std::function<void(size_t request, const Answer&)>& on_answer = {});
  const EngineStats& stats() const { return stats_; }

  /// Bytes of keys, values and states of a text of so many tokens.
  static int64_t state_bytes(const CausalLM& model, int64_t tokens);
  /// Bytes that a request may come to: its state, set aside when it is admitted, and with exact backfill its tokens
  /// that wait for loops they skipped.
  int64_t text_bytes(const Request& request) const;

 private:
  CausalLM& model_;
  EngineOptions options_;
  EngineStats stats_;
};

}  // namespace liger
