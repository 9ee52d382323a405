#include "generate/engine_run.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <thread>

#include "generate/prefill.h"
#include "generate/verdict.h"
#include "liger/io/interrupt.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostMadeUp = 32;  // tokens of a text that left a loop out and go through it in one pass

}  // namespace

LoopPlan::LoopPlan(const ModelConfig& config) {
  const int64_t L = config.num_hidden_layers;
  std::vector<int64_t> ends = {L - 1};
  if (config.recursive && config.recursive->runs_in_loops()) {
    ends = config.recursive->loop_ends(L);
    if (config.recursive->keeps_ends()) first = 0, last = L - 1;
  }
  int64_t depth = first ? 1 : 0;
  layers = ends.front() + 1 - depth;
  for (const int64_t end : ends) {
    begins.push_back(depth);
    depth = end + 1;
  }
}

/// A text on its way, token by token, through the depths.
struct EngineRun::Text {
  size_t request = 0;
  DecodingState state;        // one sequence; its `seen` is not used
  std::vector<int64_t> seen;  // tokens that have run, by depth
  int64_t loop = 0;           // it is in
  at::Tensor x;               // what it comes into this loop with, [1, hidden_size]
  /// What tokens that left before loop i would have come into it with, oldest first.
  std::vector<std::vector<at::Tensor>> skipped;
  bool only_makes_up = false;  // in this pass its token waits for those before it
  Verdict verdict;             // after the loop before
  bool left = false;           // its token has, and waits for the others;
  int64_t next = -1;           // this one comes then

  TextRows rows(int64_t depth, int64_t begin, int64_t count) {
    return {&state, depth, seen[static_cast<size_t>(depth)], begin, count};
  }
  int64_t bytes() const {
    int64_t total = state.bytes();
    for (const auto& loop_rows : skipped)
      for (const at::Tensor& row : loop_rows) total += static_cast<int64_t>(row.nbytes());
    return total;
  }
};

EngineRun::EngineRun(CausalLM& model, const Engine& engine, const EngineOptions& options, EngineStats& stats,
                     const std::vector<Request>& requests, const OnAnswer& on_answer)
    : model_(model),
      engine_(engine),
      plan_(model.config()),
      options_(options),
      stats_(stats),
      requests_(requests),
      on_answer_(on_answer),
      answers_(requests.size()),
      layers_(model) {
  stats_.left.assign(plan_.begins.size(), 0);
  for (size_t i = 0; i < requests.size(); ++i) waiting_.push_back(i);
  std::stable_sort(waiting_.begin(), waiting_.end(),
                   [&](size_t a, size_t b) { return requests[a].arrival < requests[b].arrival; });
}

EngineRun::~EngineRun() = default;

std::vector<Answer> EngineRun::run() {
  start_ = Clock::now();
  while (!waiting_.empty() || !texts_.empty()) {
    throw_if_interrupted();
    admit();
    if (texts_.empty()) {
      if (!waiting_.empty()) wait_for(requests_[waiting_.front()].arrival);
      continue;
    }
    pass();
  }
  stats_.seconds += now();
  return std::move(answers_);
}

double EngineRun::now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void EngineRun::wait_for(double arrival) const {
  constexpr double kLongest = 0.1;  // between looks at signals
  const double left = arrival - now();
  if (left > 0) std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, kLongest)));
}

// A text may come in: to an empty batch, between tokens, or at any time.
bool EngineRun::opens() const {
  switch (options_.batching) {
    case Batching::kStatic: return texts_.empty();
    case Batching::kSequence: return between_tokens_;
    case Batching::kDepth: return true;
  }
  return true;
}

void EngineRun::admit() {
  if (!opens()) return;
  while (!waiting_.empty() && std::ssize(texts_) < options_.batch) {
    const size_t i = waiting_.front();
    const int64_t bytes = engine_.text_bytes(requests_[i]);
    if (requests_[i].arrival > now() || (options_.memory > 0 && memory_ + bytes > options_.memory)) break;
    waiting_.pop_front();
    memory_ += bytes;
    answers_[i].admitted = now();
    texts_.push_back(begin(i));
    measure();
    if (texts_.back()->x.defined()) continue;
    texts_.pop_back();  // ended with its first token
  }
}

std::unique_ptr<EngineRun::Text> EngineRun::begin(size_t request) {
  const double begin = now();
  auto text = std::make_unique<Text>();
  text->request = request;
  text->skipped.resize(plan_.begins.size());
  const Request& of = requests_[request];
  // With a limit all that was counted is set aside; without one, caches of texts that go on for long grow by doubling.
  constexpr int64_t kAtFirst = 256;
  const int64_t tokens = options_.memory > 0 ? of.max_tokens : std::min(of.max_tokens, kAtFirst);
  layers_.reserve(text->state, std::ssize(of.prompt) + tokens - 1);
  const at::Tensor logits = prefill(model_, of.prompt, kPrefillChunk, text->state);
  text->seen.assign(text->state.layers.size(), std::ssize(of.prompt));
  text->next = choose_tokens(logits).front().first;
  stats_.prefill_seconds += now() - begin;
  answers_[request].first_token = now();
  take({text.get()});
  return text;
}

// Bytes grow with admissions and with tokens that wait, which are most when a text ends.
void EngineRun::measure() {
  int64_t bytes = 0;
  for (const auto& text : texts_) bytes += text->bytes();
  stats_.most_bytes = std::max(stats_.most_bytes, bytes);
}

// The next tokens of texts; x stays undefined where that ends one.
void EngineRun::take(const std::vector<Text*>& texts) {
  std::vector<Text*> going;
  std::vector<int64_t> ids;
  for (Text* text : texts) {
    text->x = at::Tensor();
    if (ended(*text)) continue;
    text->loop = 0;
    text->left = false;
    text->verdict = {};
    going.push_back(text);
    ids.push_back(text->next);
  }
  if (going.empty()) return;
  at::Tensor x = layers_.embed(ids);
  if (plan_.first) x = own_layer(going, *plan_.first, x);
  for (size_t i = 0; i < going.size(); ++i) going[i]->x = x.narrow(0, static_cast<int64_t>(i), 1);
}

// Writes the next token down; whether it was the last.
bool EngineRun::ended(const Text& text) {
  Answer& answer = answers_[text.request];
  const bool ends = std::find(options_.end_ids.begin(), options_.end_ids.end(), text.next) != options_.end_ids.end();
  if (!ends) answer.tokens.push_back(text.next);
  if (!ends && std::ssize(answer.tokens) < requests_[text.request].max_tokens) return false;
  answer.finish_reason = ends ? "stop" : "length";
  answer.finished = now();
  memory_ -= engine_.text_bytes(requests_[text.request]);
  measure();
  if (on_answer_) on_answer_(text.request, answer);
  return true;
}

// Those that run now: all, or with the whole batch in one loop those whose token has not left.
std::vector<EngineRun::Text*> EngineRun::running() const {
  std::vector<Text*> out;
  for (const auto& text : texts_)
    if (!text->left) out.push_back(text.get());
  std::stable_sort(out.begin(), out.end(), [](const Text* a, const Text* b) { return a->loop < b->loop; });
  return out;
}

void EngineRun::pass() {
  const std::vector<Text*> texts = running();
  std::vector<TextRows> rows;
  std::vector<at::Tensor> inputs;
  for (Text* text : texts) {
    const auto loop = static_cast<size_t>(text->loop);
    std::vector<at::Tensor>& skipped = text->skipped[loop];
    // A text that has left early for long must not make all others wait: its token goes when those before it have.
    const int64_t made_up = std::min(std::ssize(skipped), kMostMadeUp);
    text->only_makes_up = made_up < std::ssize(skipped);
    rows.push_back(text->rows(plan_.begins[loop], std::ssize(inputs), made_up + (text->only_makes_up ? 0 : 1)));
    inputs.insert(inputs.end(), skipped.begin(), skipped.begin() + made_up);
    if (!text->only_makes_up) inputs.push_back(text->x);
    stats_.backfill += made_up;
    skipped.erase(skipped.begin(), skipped.begin() + made_up);
  }
  ++stats_.passes;
  stats_.rows += std::ssize(inputs);
  const double begin = now();
  const at::Tensor x = layers_.run(rows, plan_.layers, at::cat(inputs));
  advance(texts, rows, plan_.layers);
  stats_.layer_seconds += now() - begin;
  leave(texts, rows, x);
}

void EngineRun::advance(const std::vector<Text*>& texts, const std::vector<TextRows>& rows, int64_t layers) {
  for (size_t i = 0; i < texts.size(); ++i)
    for (int64_t layer = 0; layer < layers; ++layer)
      texts[i]->seen[static_cast<size_t>(rows[i].depth + layer)] += rows[i].count;
}

// What comes out of a pass: tokens that leave, and those that go on.
void EngineRun::leave(const std::vector<Text*>& texts, const std::vector<TextRows>& rows, const at::Tensor& x) {
  std::vector<ChoiceRow> wanted;
  std::vector<Text*> judged;
  for (size_t i = 0; i < texts.size(); ++i) {
    Text& text = *texts[i];
    const bool is_last = text.loop + 1 == plan_.loops();
    // Those that had left before go on to wait for the next loop.
    const int64_t made_up = rows[i].count - (text.only_makes_up ? 0 : 1);
    for (int64_t t = 0; !is_last && t < made_up; ++t)
      text.skipped[static_cast<size_t>(text.loop) + 1].push_back(x.narrow(0, rows[i].begin + t, 1).clone());
    if (text.only_makes_up) continue;
    const int64_t row = rows[i].begin + made_up;
    text.x = x.narrow(0, row, 1);
    if (!is_last && !options_.exit) {
      ++text.loop;
      continue;
    }
    judged.push_back(&text);
    // After the last loop nobody asks how sure it is.
    wanted.push_back({row, is_last ? ChoiceSums::kNone : sums_for(options_.exit->rule)});
  }
  if (!judged.empty()) choose(judged, std::move(wanted), x);
  go_on();
}

// Tokens that have left make room for the next ones of their texts: at once, or when those of all texts have.
void EngineRun::go_on() {
  const bool all_left = std::all_of(texts_.begin(), texts_.end(), [](const auto& text) { return text->left; });
  between_tokens_ = all_left;
  if (options_.batching != Batching::kDepth && !all_left) return;
  std::vector<Text*> leaving;
  for (const auto& text : texts_)
    if (text->left) leaving.push_back(text.get());
  take(leaving);
  std::erase_if(texts_, [](const auto& text) { return !text->x.defined(); });
}

// The most probable token after each, and whether it is taken.
void EngineRun::choose(const std::vector<Text*>& texts, std::vector<ChoiceRow> rows, const at::Tensor& x) {
  const double begin = now();
  at::Tensor hidden = x;
  if (plan_.last) {
    std::vector<at::Tensor> finals;
    for (size_t i = 0; i < texts.size(); ++i) {
      finals.push_back(texts[i]->x);
      rows[i].row = static_cast<int64_t>(i);
    }
    hidden = own_layer(texts, *plan_.last, at::cat(finals));
  }
  const std::vector<RowChoice> choices = layers_.choose(hidden, rows);
  stats_.judged += std::ssize(rows);
  stats_.judge_seconds += now() - begin;
  std::vector<Text*> early;
  for (size_t i = 0; i < texts.size(); ++i) {
    Text& text = *texts[i];
    if (text.loop + 1 < plan_.loops()) {
      text.verdict = verdict(options_.exit->rule, choices[i], text.verdict);
      if (!is_sure(*options_.exit, text.verdict)) {
        ++text.loop;
        continue;
      }
      early.push_back(&text);
    }
    give(text, choices[i].first);
  }
  skip_loops(early);
}

void EngineRun::give(Text& text, int64_t token) {
  ++stats_.left[static_cast<size_t>(text.loop)];
  ++stats_.tokens;
  answers_[text.request].loops += text.loop + 1;
  text.left = true;
  text.next = token;
}

// A layer of their own, of the last token of each.
at::Tensor EngineRun::own_layer(const std::vector<Text*>& texts, int64_t depth, const at::Tensor& x) {
  std::vector<TextRows> rows;
  for (size_t i = 0; i < texts.size(); ++i) rows.push_back(texts[i]->rows(depth, static_cast<int64_t>(i), 1));
  const at::Tensor out = layers_.run(rows, 1, x);
  advance(texts, rows, 1);
  return out;
}

// What the loops after theirs will know of tokens that have left.
void EngineRun::skip_loops(const std::vector<Text*>& texts) {
  if (options_.backfill == Backfill::kExact) {
    for (Text* text : texts)
      text->skipped[static_cast<size_t>(text->loop) + 1].push_back(text->x.clone());  // not the whole pass
    return;
  }
  const double begin = now();
  for (int64_t loop = 1; loop < plan_.loops(); ++loop) {
    std::vector<Text*> left;
    std::vector<TextRows> rows;
    std::vector<at::Tensor> inputs;
    for (Text* text : texts) {
      if (text->loop >= loop) continue;
      left.push_back(text);
      rows.push_back(text->rows(plan_.begins[static_cast<size_t>(loop)], std::ssize(inputs), 1));
      inputs.push_back(text->x);
    }
    if (left.empty()) continue;
    layers_.remember(rows, plan_.layers, at::cat(inputs));
    advance(left, rows, plan_.layers);
  }
  stats_.layer_seconds += now() - begin;
}

}  // namespace liger
