#include "liger/eval/scoring.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "liger/core/sequences.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

// Logits held at once: 128 MiB in float32, enough rows for the product with the head to run at full speed.
constexpr int64_t kLogitElements = int64_t{1} << 25;
// States of forked sequences held at once.
constexpr int64_t kForkBytes = int64_t{512} << 20;

at::Tensor to_tensor(const std::vector<int64_t>& values, at::Device device) {
  at::Tensor tensor = at::empty({std::ssize(values)}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor.to(device);
}

// Requests that go on from one reading of their context.
struct Group {
  std::vector<int64_t> requests;
  int64_t context = 0;       // tokens
  int64_t longest_tail = 0;  // tokens of a continuation that are read: all but its last
};

// A token whose probability is asked for: the row of hidden states that predicts it, the request it counts for.
struct Target {
  int64_t row, token, request;
};

class Scorer {
 public:
  Scorer(CausalLM& model, std::span<const ScoreRequest> requests, const ScoringOptions& options)
      : model_(model), requests_(requests), options_(options), scores_(requests.size()) {}

  std::vector<Score> run(const std::function<void(int64_t)>& progress);

 private:
  void check_ids() const;
  std::vector<Group> groups() const;
  bool worth_sharing(const Group& group) const;
  bool fits(int64_t contexts, int64_t context, int64_t requests, int64_t tail) const;
  void score_whole(std::span<const Group> batch);
  void score_forked(std::span<const Group> batch);
  void score_tails(std::span<const Target> forks, const DecodingState& state);
  void read(const at::Tensor& hidden, const std::vector<Target>& targets);
  int64_t tail(int64_t request) const { return std::ssize(requests_[request].continuation) - 1; }

  CausalLM& model_;
  std::span<const ScoreRequest> requests_;
  ScoringOptions options_;
  std::vector<Score> scores_;
};

void Scorer::check_ids() const {
  const int64_t vocab = model_.config().vocab_size;
  for (const ScoreRequest& request : requests_) {
    for (const auto* ids : {&request.context, &request.continuation}) {
      for (const int64_t id : *ids) {
        LIGER_CHECK(id >= 0 && id < vocab, "token id ", id, " is outside of the model's vocabulary of ", vocab,
                    "; do the tokenizer and the weights belong together?");
      }
    }
  }
}

// A second pass and the copies of the state cost something, so a quarter of all tokens should be saved.
bool Scorer::worth_sharing(const Group& group) const {
  int64_t total = 0;
  for (const int64_t i : group.requests) total += group.context + tail(i);
  return 4 * (std::ssize(group.requests) - 1) * group.context >= total;
}

std::vector<Group> Scorer::groups() const {
  std::vector<int64_t> order(requests_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return requests_[a].context < requests_[b].context; });
  std::vector<Group> groups;
  for (size_t begin = 0; begin < order.size();) {
    Group group{{}, std::ssize(requests_[order[begin]].context), 0};
    size_t end = begin;
    while (end < order.size() && requests_[order[end]].context == requests_[order[begin]].context) {
      group.longest_tail = std::max(group.longest_tail, tail(order[end]));
      group.requests.push_back(order[end++]);
    }
    if (options_.share_contexts && group.requests.size() > 1 && worth_sharing(group)) {
      groups.push_back(std::move(group));
    } else {
      for (const int64_t i : group.requests) groups.push_back({{i}, group.context, tail(i)});
    }
    begin = end;
  }
  // Forked ones apart from single ones. Longest first: what does not fit into memory fails at once, and neighbours
  // are about equally long.
  std::stable_sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
    const bool a_forks = a.requests.size() > 1, b_forks = b.requests.size() > 1;
    return a_forks != b_forks ? a_forks : a.context + a.longest_tail > b.context + b.longest_tail;
  });
  return groups;
}

bool Scorer::fits(int64_t contexts, int64_t context, int64_t requests, int64_t tail) const {
  if (options_.batch_size > 0) return requests <= options_.batch_size;
  return contexts * context + requests * tail <= options_.tokens_per_batch;
}

std::vector<Score> Scorer::run(const std::function<void(int64_t)>& progress) {
  check_ids();
  const std::vector<Group> all = groups();
  int64_t done = 0;
  for (size_t begin = 0; begin < all.size();) {
    const bool forks = all[begin].requests.size() > 1;
    size_t end = begin;
    int64_t requests = 0, context = 0, tail = 0;
    while (end < all.size() && (all[end].requests.size() > 1) == forks) {
      context = std::max(context, all[end].context);
      tail = std::max(tail, all[end].longest_tail);
      const int64_t more = requests + std::ssize(all[end].requests);
      if (end > begin && !fits(static_cast<int64_t>(end - begin + 1), context, more, tail)) break;
      requests = more;
      ++end;
    }
    throw_if_interrupted();
    const std::span<const Group> batch(all.data() + begin, end - begin);
    forks ? score_forked(batch) : score_whole(batch);
    done += requests;
    if (progress) progress(done);
    begin = end;
  }
  return std::move(scores_);
}

void Scorer::score_whole(std::span<const Group> batch) {
  std::vector<std::vector<int64_t>> inputs;
  std::vector<Target> targets;
  int64_t row = -1;
  for (const Group& group : batch) {
    const int64_t i = group.requests.front();
    const ScoreRequest& request = requests_[i];
    std::vector<int64_t> input = request.context;
    input.insert(input.end(), request.continuation.begin(), request.continuation.end() - 1);
    row += std::ssize(request.context);
    for (const int64_t token : request.continuation) targets.push_back({row++, token, i});
    --row;
    inputs.push_back(std::move(input));
  }
  read(model_.hidden_states(Sequences(inputs, model_.device())), targets);
}

void Scorer::score_forked(std::span<const Group> batch) {
  std::vector<std::vector<int64_t>> contexts;
  std::vector<Target> targets, forks;  // a fork's row is the context it goes on from
  int64_t row = -1;
  for (const Group& group : batch) {
    row += group.context;
    for (const int64_t i : group.requests) {
      targets.push_back({row, requests_[i].continuation.front(), i});
      if (tail(i) > 0) forks.push_back({std::ssize(contexts), 0, i});
    }
    contexts.push_back(requests_[group.requests.front()].context);
  }
  DecodingState state;
  const Sequences sequences(contexts, model_.device());
  read(model_.hidden_states(sequences, forks.empty() ? nullptr : &state), targets);
  if (forks.empty()) return;
  const int64_t by_memory =
      std::max<int64_t>(1, kForkBytes * std::ssize(contexts) / std::max<int64_t>(1, state.bytes()));
  for (size_t begin = 0; begin < forks.size();) {
    size_t end = begin;
    int64_t longest = 0;
    while (end < forks.size()) {
      longest = std::max(longest, tail(forks[end].request));
      const auto count = static_cast<int64_t>(end - begin + 1);
      if (end > begin && (count > by_memory || !fits(0, 0, count, longest))) break;
      ++end;
    }
    score_tails(std::span(forks).subspan(begin, end - begin), state);
    begin = end;
  }
}

void Scorer::score_tails(std::span<const Target> forks, const DecodingState& state) {
  std::vector<int64_t> parents;
  std::vector<std::vector<int64_t>> inputs;
  std::vector<Target> targets;
  int64_t row = 0;
  for (const Target& fork : forks) {
    const std::vector<int64_t>& continuation = requests_[fork.request].continuation;
    parents.push_back(fork.row);
    inputs.emplace_back(continuation.begin(), continuation.end() - 1);
    for (auto token = continuation.begin() + 1; token != continuation.end(); ++token) {
      targets.push_back({row++, *token, fork.request});
    }
  }
  DecodingState forked = state.select(to_tensor(parents, model_.device()));
  read(model_.hidden_states(Sequences(inputs, model_.device()), &forked), targets);
}

// Adds the log-probability of every target to its request. Targets come in order of their rows; only those rows go
// through the head, a bounded number at a time.
void Scorer::read(const at::Tensor& hidden, const std::vector<Target>& targets) {
  const int64_t vocab = model_.config().vocab_size;
  const int64_t rows_at_once = std::max<int64_t>(1, kLogitElements / vocab);
  for (size_t begin = 0; begin < targets.size();) {
    std::vector<int64_t> rows, flat;
    size_t end = begin;
    for (; end < targets.size(); ++end) {
      if (rows.empty() || rows.back() != targets[end].row) {
        if (std::ssize(rows) == rows_at_once) break;
        rows.push_back(targets[end].row);
      }
      flat.push_back((std::ssize(rows) - 1) * vocab + targets[end].token);
    }
    const at::Tensor logits = model_.logits(hidden.index_select(0, to_tensor(rows, hidden.device())));
    const bool as_is = options_.model_softmax || logits.scalar_type() == at::kDouble;
    const at::Tensor log_probabilities = logits.log_softmax(-1, as_is ? logits.scalar_type() : at::kFloat);
    const at::Tensor best = log_probabilities.argmax(-1).cpu();
    const at::Tensor values =
        log_probabilities.flatten().index_select(0, to_tensor(flat, hidden.device())).to(at::kDouble).cpu();
    const int64_t* best_at = best.const_data_ptr<int64_t>();
    const double* value_at = values.const_data_ptr<double>();
    for (size_t i = begin; i < end; ++i) {
      Score& score = scores_[targets[i].request];
      score.log_likelihood += value_at[i - begin];
      score.greedy = score.greedy && best_at[flat[i - begin] / vocab] == targets[i].token;
      LIGER_CHECK(std::isfinite(value_at[i - begin]), "the model gives a log-probability of ", value_at[i - begin],
                  " to token ", targets[i].token, "; its weights or its dtype do not hold: try --dtype f32");
    }
    begin = end;
  }
}

}  // namespace

std::vector<Score> score(CausalLM& model, std::span<const ScoreRequest> requests, const ScoringOptions& options,
                         const std::function<void(int64_t)>& progress) {
  const c10::InferenceMode inference;
  return Scorer(model, requests, options).run(progress);
}

}  // namespace liger
