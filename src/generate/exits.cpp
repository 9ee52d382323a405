#include "liger/generate/exits.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "core/names.h"
#include "generate/verdict.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

constexpr Name<ExitRule> kRules[] = {
    {ExitRule::kMargin, "margin"}, {ExitRule::kEntropy, "entropy"}, {ExitRule::kPatience, "patience"}};

// Of every position, after each loop.
using Position = std::vector<Verdict>;

std::vector<Position> read_texts(CausalLM& model, const std::vector<Sequences>& texts, ExitRule rule) {
  constexpr int64_t kRows = 256;  // whose logits exist at a time
  std::vector<Position> out;
  for (const Sequences& text : texts) {
    const std::vector<at::Tensor> exits = model.exit_states(text);
    for (int64_t first = 0; first < text.tokens(); first += kRows) {
      const int64_t n = std::min(kRows, text.tokens() - first);
      std::vector<Position> rows(static_cast<size_t>(n));
      std::vector<Verdict> before;
      for (const at::Tensor& hidden : exits) {
        before = judge(rule, model.logits(hidden.narrow(0, first, n)), before);
        for (size_t i = 0; i < rows.size(); ++i) rows[i].push_back(before[i]);
      }
      out.insert(out.end(), rows.begin(), rows.end());
    }
  }
  return out;
}

ExitOutcome outcome(const std::vector<Position>& positions, const ExitPolicy& policy) {
  ExitOutcome out{.policy = policy, .left = std::vector<int64_t>(positions.front().size(), 0), .different = 0};
  for (const Position& position : positions) {
    size_t loop = 0;
    while (loop + 1 < position.size() && !is_sure(policy, position[loop])) ++loop;
    ++out.left[loop];
    out.different += position[loop].token != position.back().token;
  }
  return out;
}

// Those that make a difference, from the strictest to the loosest; at most so many.
std::vector<double> thresholds(const std::vector<Position>& positions, ExitRule rule) {
  constexpr size_t kMost = 512;
  std::set<double> all;
  for (const Position& position : positions)
    for (size_t loop = 0; loop + 1 < position.size(); ++loop) all.insert(position[loop].score);
  std::vector<double> sorted(all.begin(), all.end()), out;
  if (rule != ExitRule::kEntropy) std::reverse(sorted.begin(), sorted.end());
  if (rule == ExitRule::kPatience) std::erase_if(sorted, [](double x) { return x < 1; });
  const size_t step = std::max<size_t>(1, sorted.size() / kMost);
  for (size_t i = 0; i < sorted.size(); i += step) out.push_back(sorted[i]);
  if (!sorted.empty() && out.back() != sorted.back()) out.push_back(sorted.back());
  return out;
}

}  // namespace

const char* to_string(ExitRule rule) { return name_of(kRules, rule); }
ExitRule exit_rule_from_name(const std::string& name) { return value_of(kRules, name, "exit rule"); }

ExitPolicy ExitPolicy::never(ExitRule rule) {
  constexpr double kBeyond = std::numeric_limits<double>::infinity();
  return {rule, rule == ExitRule::kEntropy ? -kBeyond : kBeyond};
}

bool ExitPolicy::is_never() const { return threshold == never(rule).threshold; }

void validate(const ExitPolicy& policy) {
  const double x = policy.threshold;
  if (policy.is_never()) return;
  switch (policy.rule) {
    case ExitRule::kMargin:
      LIGER_CHECK_USAGE(x >= 0 && x <= 1, "exit threshold: a margin is from 0 to 1, got ", x);
      break;
    case ExitRule::kEntropy:
      LIGER_CHECK_USAGE(x >= 0 && std::isfinite(x), "exit threshold: an entropy is 0 or more, got ", x);
      break;
    case ExitRule::kPatience:
      LIGER_CHECK_USAGE(x >= 1 && x == std::floor(x),
                        "exit threshold: patience is a whole number of loops, 1 or more, ", "got ", x);
  }
}

void check_exits(const ModelConfig& config) {
  LIGER_CHECK_USAGE(config.recursive && config.recursive->sharing == Sharing::kCycle,
                    "exit: expected a recursive model with sharing 'cycle', whose tokens can leave after any loop");
}

ChoiceSums sums_for(ExitRule rule) {
  switch (rule) {
    case ExitRule::kMargin: return ChoiceSums::kTotal;
    case ExitRule::kEntropy: return ChoiceSums::kTotalAndEntropy;
    case ExitRule::kPatience: return ChoiceSums::kNone;
  }
  return ChoiceSums::kTotalAndEntropy;
}

Verdict verdict(ExitRule rule, const RowChoice& choice, const Verdict& before) {
  const int64_t token = choice.first;
  switch (rule) {
    case ExitRule::kMargin: return {token, (1 - std::exp(choice.second - choice.largest)) / choice.total};
    case ExitRule::kEntropy: return {token, choice.entropy};
    case ExitRule::kPatience: return {token, before.token == token ? before.score + 1 : 0};
  }
  return {token, 0};
}

std::vector<Verdict> judge(ExitRule rule, const at::Tensor& logits, const std::vector<Verdict>& before) {
  const at::NoGradGuard no_grad;
  const std::vector<RowChoice> choices = choose_tokens(logits, sums_for(rule));
  std::vector<Verdict> out;
  for (size_t i = 0; i < choices.size(); ++i)
    out.push_back(verdict(rule, choices[i], before.empty() ? Verdict{} : before[i]));
  return out;
}

bool is_sure(const ExitPolicy& policy, const Verdict& verdict) {
  return policy.rule == ExitRule::kEntropy ? verdict.score <= policy.threshold : verdict.score >= policy.threshold;
}

int64_t ExitOutcome::tokens() const { return std::accumulate(left.begin(), left.end(), int64_t{0}); }

double ExitOutcome::mean_loops() const {
  int64_t loops = 0;
  for (size_t i = 0; i < left.size(); ++i) loops += static_cast<int64_t>(i + 1) * left[i];
  return static_cast<double>(loops) / static_cast<double>(tokens());
}

ExitOutcome fit_exit(CausalLM& model, const std::vector<Sequences>& texts, ExitRule rule, double loss) {
  LIGER_CHECK_USAGE(loss >= 0 && loss < 1, "exit: expected a share of tokens from 0 to below 1, got ", loss);
  check_exits(model.config());
  const at::NoGradGuard no_grad;
  const std::vector<Position> positions = read_texts(model, texts, rule);
  LIGER_CHECK_USAGE(!positions.empty(), "exit: the texts have no token");
  ExitOutcome best = outcome(positions, ExitPolicy::never(rule));
  for (const double threshold : thresholds(positions, rule)) {
    const ExitOutcome found = outcome(positions, {rule, threshold});
    if (found.different > loss * static_cast<double>(found.tokens())) continue;
    if (found.mean_loops() < best.mean_loops()) best = found;
  }
  return best;
}

}  // namespace liger
