#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "liger/core/sequences.h"

namespace liger {

class CausalLM;

/// When a token of a recursive model is sure enough after a loop to be taken without the rest.
enum class ExitRule {
  kMargin,    ///< p(first) - p(second) of the likeliest two is at least the threshold, 0 to 1 (arXiv 2310.05424)
  kEntropy,   ///< the entropy of the distribution is at most the threshold, in nats
  kPatience,  ///< so many loops before this one found the same token likeliest (arXiv 2006.04152): 1, 2, ...
};
const char* to_string(ExitRule rule);  ///< margin, entropy, patience
/// Throws Error(kUsage) with a list of the names for others.
ExitRule exit_rule_from_name(const std::string& name);

struct ExitPolicy {
  ExitRule rule = ExitRule::kMargin;
  double threshold = 1;

  /// One that no token is sure enough for.
  static ExitPolicy never(ExitRule rule);
  bool is_never() const;
};
/// Throws Error(kUsage) for a threshold that is out of the rule's range, unless it is never().
void validate(const ExitPolicy& policy);

/// Of one token after one loop: the likeliest next token, and how sure that is: what the rule's threshold is compared
/// with. For patience the number of loops before that agree, `before` being what was said after the last one.
struct Verdict {
  int64_t token = -1;
  double score = 0;
};
/// Of rows of logits [n, V]; `before` is empty after the first loop, or has a token of -1 for rows that were in it.
std::vector<Verdict> judge(ExitRule rule, const at::Tensor& logits, const std::vector<Verdict>& before);
bool is_sure(const ExitPolicy& policy, const Verdict& verdict);

/// What a policy does on texts: tokens that leave after each loop, and how many are not the last loop's choice.
struct ExitOutcome {
  ExitPolicy policy;
  std::vector<int64_t> left;  ///< after loop 1, 2, ...; all that came to the last are in the last
  int64_t different = 0;
  int64_t tokens() const;
  double mean_loops() const;
  double agreement() const { return 1 - static_cast<double>(different) / static_cast<double>(tokens()); }
};

/// The loosest threshold with which at most this share of tokens is another than after all loops, over all positions of
/// the texts; with keys and values of skipped loops made up later, exits change nothing else. Throws Error(kUsage) if
/// the model has no loops that tokens can leave (sharing 'cycle'), or the share is not in [0, 1).
ExitOutcome fit_exit(CausalLM& model, const std::vector<Sequences>& texts, ExitRule rule, double loss);

}  // namespace liger
