#include "liger/eval/scoring.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "eval/prefix_tree.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/nn/causal_lm.h"
#include "nn/decoder.h"
#include "ops/choose_tokens.h"
#include "ops/head_scores.h"

namespace liger {
namespace {

// Logits held at once: 128 MiB in float32, enough rows for the product with the head to run at full speed.
constexpr int64_t kLogitElements = int64_t{1} << 25;
// A layer's states of forked sequences held at once.
constexpr int64_t kForkBytes = int64_t{512} << 20;

at::Tensor to_tensor(const std::vector<int64_t>& values, at::Device device) {
  at::Tensor tensor = at::empty({std::ssize(values)}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor.to(device);
}

// A token whose probability is asked for, and the row of hidden states that predicts it.
struct RowTarget {
  int64_t row, token, request;
};

// What a fork costs, measured in tokens that the model would read in the same time.
struct ForkCost {
  double segment = 0, shared = 0, token = 0;
  int64_t layer_bytes = 0, layer_bytes_a_token = 0;  // of the state of one sequence that a layer copies
};

// A pass of one token tells how large the states are.
ForkCost fork_cost(CausalLM& model) {
  DecodingState state;
  model.hidden_states(Sequences({{0}}, model.device()), &state);
  ForkCost cost;
  int64_t copied = 0;
  for (size_t i = 0; i < state.layers.size(); ++i) {
    if (model.device().is_cpu() && model.decoder().layers()[i]->attention().attends_plainly()) continue;
    const int64_t bytes = DecodingState{{state.layers[i]}, {}}.bytes();
    int64_t& most = state.layers[i].recurrent.empty() ? cost.layer_bytes_a_token : cost.layer_bytes;
    most = std::max(most, bytes);
    copied += bytes;
  }
  int64_t weights = -model.decoder().embedding().numel();
  for (const at::Tensor& parameter : model.parameters()) weights += parameter.numel();
  // Measured on a core, with 70 M weights and 4 to 600 shared tokens: a byte is copied in the time of 40
  // multiplications; a part of attention of its own costs its call and, of all tokens that see it, the joining.
  constexpr double kProductsPerByte = 40, kCall = 2, kJoining = 0.06;
  cost.segment = kProductsPerByte * static_cast<double>(copied) / static_cast<double>(std::max<int64_t>(1, weights));
  cost.shared = kCall;
  cost.token = kJoining;
  return cost;
}

class Scorer {
 public:
  Scorer(CausalLM& model, std::span<const ScoreRequest> requests, const ScoringOptions& options,
         const std::function<void(int64_t)>& progress)
      : model_(model),
        requests_(requests),
        options_(options),
        progress_(progress),
        scores_(requests.size()),
        unseen_(requests.size()) {
    for (size_t i = 0; i < requests.size(); ++i) unseen_[i] = std::ssize(requests[i].continuation);
  }

  std::vector<Score> run();

 private:
  void check_ids() const;
  PrefixTree::Worth worth() const;
  bool fits(int64_t leaves, int64_t tokens, int64_t segments, int64_t longest) const;
  void read(const std::vector<int64_t>& siblings, const DecodingState* root);
  void read_trunk(const PrefixTree::Node& node, const DecodingState* root);
  void read_together(std::span<const int64_t> siblings, const DecodingState* root);
  void add(int64_t node, int64_t parent, SequenceTree& tree, std::vector<RowTarget>& targets) const;
  void add_targets(const PrefixTree::Node& node, int64_t first, std::vector<RowTarget>& targets) const;
  void score(const at::Tensor& hidden, const std::vector<RowTarget>& targets);
  std::vector<HeadScore> scores_of_logits(const at::Tensor& hidden, std::span<const HeadTarget> targets);
  void take(const RowTarget& target, const HeadScore& of);
  bool is_known(int64_t node) const;
  void recall(int64_t node);

  CausalLM& model_;
  std::span<const ScoreRequest> requests_;
  ScoringOptions options_;
  const std::function<void(int64_t)>& progress_;
  ForkCost cost_;
  std::optional<PrefixTree> tree_;
  std::vector<Score> scores_;
  std::vector<std::optional<Score>> known_;  // from before; empty where nobody was asked
  std::vector<int64_t> unseen_;              // tokens that a request waits for
  int64_t done_ = 0;
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

PrefixTree::Worth Scorer::worth() const {
  if (options_.sharing == PrefixSharing::kNone) return {};
  if (options_.sharing == PrefixSharing::kAlways) return [](int64_t, int64_t, int64_t) { return true; };
  return [this](int64_t tokens, int64_t children, int64_t below) {
    const double saved = static_cast<double>(tokens * (children - 1));
    return saved >
           cost_.shared + cost_.segment * static_cast<double>(children) + cost_.token * static_cast<double>(below);
  };
}

std::vector<Score> Scorer::run() {
  check_ids();
  if (requests_.empty()) return {};
  if (options_.sharing != PrefixSharing::kNone) cost_ = fork_cost(model_);
  tree_.emplace(requests_, worth());
  for (int64_t i = 0; options_.known && i < std::ssize(requests_); ++i) known_.push_back(options_.known(i));
  read(tree_->roots(), nullptr);
  return std::move(scores_);
}

bool Scorer::fits(int64_t leaves, int64_t tokens, int64_t segments, int64_t longest) const {
  if (segments * (cost_.layer_bytes + cost_.layer_bytes_a_token * longest) > kForkBytes) return false;
  return options_.batch_size > 0 ? leaves <= options_.batch_size : tokens <= options_.tokens_per_batch;
}

// All that goes on from `root` (null: from nothing), as much as fits in a pass. What is too large of itself is read
// down to where it forks, and the rest goes on from the state there.
void Scorer::read(const std::vector<int64_t>& siblings, const DecodingState* root) {
  std::vector<int64_t> together;
  int64_t leaves = 0, tokens = 0, segments = 0, longest = 0;
  const auto flush = [&] {
    const bool known = std::all_of(together.begin(), together.end(), [this](int64_t i) { return is_known(i); });
    if (known) {
      for (const int64_t i : together) recall(i);
    } else {
      read_together(together, root);
    }
    together.clear();
    leaves = tokens = segments = longest = 0;
  };
  for (const int64_t index : siblings) {
    const PrefixTree::Node& node = tree_->node(index);
    const int64_t before = root ? root->seen[0] : 0;
    if (!node.children.empty() && !fits(node.leaves, node.below, node.segments, before + node.longest)) {
      is_known(index) ? recall(index) : read_trunk(node, root);
      continue;
    }
    longest = std::max(longest, before + node.longest);
    if (!fits(leaves + node.leaves, tokens + node.below, segments + node.segments, longest)) flush();
    leaves += node.leaves;
    tokens += node.below;
    segments += node.segments;
    longest = std::max(longest, before + node.longest);
    together.push_back(index);
  }
  flush();
}

void Scorer::read_trunk(const PrefixTree::Node& node, const DecodingState* root) {
  throw_if_interrupted();
  DecodingState state;
  if (root) state = root->select(to_tensor({0}, model_.device()));
  std::vector<RowTarget> targets;
  add_targets(node, 0, targets);
  score(model_.hidden_states(Sequences({node.tokens}, model_.device()), &state), targets);
  read(node.children, &state);
}

void Scorer::read_together(std::span<const int64_t> siblings, const DecodingState* root) {
  throw_if_interrupted();
  SequenceTree tree;
  std::vector<RowTarget> targets;
  for (const int64_t sibling : siblings) add(sibling, -1, tree, targets);
  score(model_.decoder().forward(tree, root), targets);
}

void Scorer::add(int64_t index, int64_t parent, SequenceTree& tree, std::vector<RowTarget>& targets) const {
  const PrefixTree::Node& node = tree_->node(index);
  add_targets(node, tree.tokens(), targets);
  const int64_t segment = tree.add(parent, node.tokens);
  for (const int64_t child : node.children) add(child, segment, tree, targets);
}

void Scorer::add_targets(const PrefixTree::Node& node, int64_t first, std::vector<RowTarget>& targets) const {
  for (const PrefixTree::Target& target : node.targets)
    targets.push_back({first + target.offset, target.token, target.request});
}

// Targets come in order of their rows; only those rows go through the head.
void Scorer::score(const at::Tensor& hidden, const std::vector<RowTarget>& targets) {
  std::vector<int64_t> rows;
  std::vector<HeadTarget> of_rows;
  for (const RowTarget& target : targets) {
    if (rows.empty() || rows.back() != target.row) rows.push_back(target.row);
    of_rows.push_back({std::ssize(rows) - 1, target.token});
  }
  if (rows.empty()) return;
  const at::Tensor asked = hidden.index_select(0, to_tensor(rows, hidden.device()));
  const std::vector<HeadScore> scores =
      hidden.is_cpu() && !options_.model_softmax
          ? head_scores(asked, model_.head_weight(), of_rows, model_.config().logit_softcap)
          : scores_of_logits(asked, of_rows);
  for (size_t i = 0; i < targets.size(); ++i) take(targets[i], scores[i]);
  if (progress_) progress_(done_);
}

// The same by rows of logits, a bounded number at a time.
std::vector<HeadScore> Scorer::scores_of_logits(const at::Tensor& hidden, std::span<const HeadTarget> targets) {
  const int64_t vocab = model_.config().vocab_size, at_once = std::max<int64_t>(1, kLogitElements / vocab);
  std::vector<HeadScore> out;
  for (int64_t first = 0; first < hidden.size(0); first += at_once) {
    const int64_t count = std::min(at_once, hidden.size(0) - first);
    at::Tensor z = model_.logits(hidden.narrow(0, first, count));
    if (options_.model_softmax) z = z.log_softmax(-1);
    const std::vector<RowChoice> choices =
        choose_tokens(z, options_.model_softmax ? ChoiceSums::kNone : ChoiceSums::kTotal);
    std::vector<int64_t> flat;
    const size_t begin = out.size();
    for (size_t i = begin; i < targets.size() && targets[i].row < first + count; ++i)
      flat.push_back((targets[i].row - first) * vocab + targets[i].token);
    const at::Tensor asked = z.flatten().index_select(0, to_tensor(flat, z.device())).to(at::kDouble).cpu();
    for (size_t i = 0; i < flat.size(); ++i) {
      const HeadTarget& target = targets[begin + i];
      const RowChoice& choice = choices[static_cast<size_t>(target.row - first)];
      const double value = asked.const_data_ptr<double>()[i];
      out.push_back({options_.model_softmax ? value : value - choice.largest - std::log(choice.total),
                     choice.first == target.token});
    }
  }
  return out;
}

// Whether all requests that read anything of this node are known from before.
bool Scorer::is_known(int64_t index) const {
  if (known_.empty()) return false;
  const PrefixTree::Node& node = tree_->node(index);
  return std::all_of(node.targets.begin(), node.targets.end(),
                     [this](const PrefixTree::Target& target) { return known_[target.request].has_value(); }) &&
         std::all_of(node.children.begin(), node.children.end(), [this](int64_t child) { return is_known(child); });
}

void Scorer::recall(int64_t index) {
  const PrefixTree::Node& node = tree_->node(index);
  for (const PrefixTree::Target& target : node.targets) {
    if (std::exchange(unseen_[target.request], 0) > 0) ++done_;
    scores_[target.request] = *known_[target.request];
  }
  for (const int64_t child : node.children) recall(child);
}

void Scorer::take(const RowTarget& target, const HeadScore& of) {
  LIGER_CHECK(std::isfinite(of.log_probability), "the model gives a log-probability of ", of.log_probability,
              " to token ", target.token, "; its weights or its dtype do not hold: try --dtype f32");
  if (unseen_[target.request] == 0) return;  // recalled with what else had to be read of it
  Score& score = scores_[target.request];
  score.log_likelihood += of.log_probability;
  score.greedy = score.greedy && of.likeliest;
  if (--unseen_[target.request] > 0) return;
  ++done_;
  if (options_.finished) options_.finished(target.request, score);
}

}  // namespace

std::vector<Score> score(CausalLM& model, std::span<const ScoreRequest> requests, const ScoringOptions& options,
                         const std::function<void(int64_t)>& progress) {
  const c10::InferenceMode inference;
  return Scorer(model, requests, options, progress).run();
}

}  // namespace liger
