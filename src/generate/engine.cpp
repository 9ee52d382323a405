#include "liger/generate/engine.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <thread>

#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/step_decoder.h"
#include "nn/mix_settings.h"
#include "nn/shared_layer.h"
#include "nn/step_mixer.h"

namespace liger {
namespace {

constexpr std::array kBatchings = {Batching::kStatic, Batching::kSequence, Batching::kDepth};
using Clock = std::chrono::steady_clock;

/// The depths of a model as loops over shared layers, between layers that run once a token.
struct Plan {
  std::vector<std::vector<int64_t>> loops;  // depths of each
  std::vector<int64_t> before, after;       // depths of their own

  explicit Plan(const ModelConfig& config) {
    const int64_t L = config.num_hidden_layers;
    std::vector<int64_t> ends = {L - 1};
    if (config.recursive && config.recursive->runs_in_loops()) {
      ends = config.recursive->loop_ends(L);
      if (config.recursive->keeps_ends()) before = {0}, after = {L - 1};
    }
    for (int64_t depth = std::ssize(before); const int64_t end : ends)
      for (loops.emplace_back(); depth <= end; ++depth) loops.back().push_back(depth);
  }
};

/// Tokens of one text on their way through the depths.
struct Text {
  size_t request = 0;
  DecodingState state;        // one sequence; its `seen` is not used
  std::vector<int64_t> seen;  // tokens that have run, by depth
  int64_t loop = 0;           // it is in
  at::Tensor x;               // what it comes into this loop with, [1, hidden_size]
  /// What tokens that left before loop i would have come into it with, oldest first.
  std::vector<std::vector<at::Tensor>> skipped;
  Verdict verdict;    // after the loop before
  bool left = false;  // its token has, and waits for the others;
  int64_t next = -1;  // this one comes then
};

/// Some rows of the batch: those of one text.
struct Rows {
  Text* text;
  int64_t begin, count;
};

class Run {
 public:
  Run(CausalLM& model, const EngineOptions& options, EngineStats& stats, const std::vector<Request>& requests,
      const std::function<void(size_t, const Answer&)>& on_answer)
      : model_(model),
        decoder_(model.decoder()),
        config_(model.config()),
        plan_(config_),
        options_(options),
        stats_(stats),
        requests_(requests),
        on_answer_(on_answer),
        answers_(requests.size()),
        frequencies_(rope_frequencies(config_.rope, config_.rotated_channels(), model.device())) {
    if (StepDecoder::supports(model)) {
      steps_.emplace(model);
      for (int i = 0; i < at::get_num_threads(); ++i)
        scratch_.push_back(at::zeros({steps_->scratch_bytes()}, at::kByte));
    }
    stats_.left.assign(plan_.loops.size(), 0);
    for (size_t i = 0; i < requests.size(); ++i) waiting_.push_back(i);
    std::stable_sort(waiting_.begin(), waiting_.end(),
                     [&](size_t a, size_t b) { return requests[a].arrival < requests[b].arrival; });
  }

  std::vector<Answer> run() {
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

 private:
  double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void wait_for(double arrival) const {
    constexpr double kLongest = 0.1;  // between looks at signals
    const double left = arrival - now();
    if (left > 0) std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, kLongest)));
  }
  int64_t bytes(const Request& request) const {
    return Engine::state_bytes(model_, std::ssize(request.prompt) + request.max_tokens);
  }

  // A text may come in: to an empty batch, between tokens, or at any time.
  bool opens() const {
    switch (options_.batching) {
      case Batching::kStatic: return texts_.empty();
      case Batching::kSequence: return between_tokens_;
      case Batching::kDepth: return true;
    }
    return true;
  }

  void admit() {
    if (!opens()) return;
    while (!waiting_.empty() && std::ssize(texts_) < options_.batch) {
      const size_t i = waiting_.front();
      const Request& request = requests_[i];
      if (request.arrival > now() || (options_.memory > 0 && memory_ + bytes(request) > options_.memory)) break;
      waiting_.pop_front();
      memory_ += bytes(request);
      answers_[i].admitted = now();
      texts_.push_back(prefill(i));
      if (texts_.back()->x.defined()) continue;
      texts_.pop_back();  // ended with its first token
    }
  }

  static constexpr size_t kPrefill = 2048;  // tokens of a prompt read at once: bounds memory

  std::unique_ptr<Text> prefill(size_t i) {
    const double begin = now();
    auto text = std::make_unique<Text>();
    text->request = i;
    text->skipped.resize(plan_.loops.size());
    const std::vector<int64_t>& prompt = requests_[i].prompt;
    at::Tensor hidden;
    for (size_t first = 0; first < prompt.size(); first += kPrefill) {
      throw_if_interrupted();
      const size_t count = std::min(prompt.size() - first, kPrefill);
      const auto piece = prompt.begin() + static_cast<int64_t>(first);
      hidden = model_.hidden_states(Sequences({{piece, piece + static_cast<int64_t>(count)}}, model_.device()),
                                    &text->state);
    }
    text->seen.assign(static_cast<size_t>(config_.num_hidden_layers), std::ssize(prompt));
    const at::Tensor logits = model_.logits(hidden.narrow(0, hidden.size(0) - 1, 1));
    stats_.prefill_seconds += now() - begin;
    answers_[i].first_token = now();
    text->next = logits.argmax(-1).item<int64_t>();
    take({text.get()});
    return text;
  }

  // The next tokens of texts; x stays undefined where that ends one.
  void take(const std::vector<Text*>& texts) {
    std::vector<Text*> going;
    std::vector<std::vector<int64_t>> ids;
    for (Text* text : texts) {
      text->x = at::Tensor();
      if (ended(*text)) continue;
      text->loop = 0;
      text->left = false;
      text->verdict = {};
      going.push_back(text);
      ids.push_back({text->next});
    }
    if (going.empty()) return;
    at::Tensor x = decoder_.embed(Sequences(ids, model_.device()));
    for (const int64_t depth : plan_.before) x = together(going, depth, x);
    for (size_t i = 0; i < going.size(); ++i) going[i]->x = x.narrow(0, static_cast<int64_t>(i), 1);
  }

  // Writes the next token down; whether it was the last.
  bool ended(const Text& text) {
    Answer& answer = answers_[text.request];
    const bool ends = std::find(options_.end_ids.begin(), options_.end_ids.end(), text.next) != options_.end_ids.end();
    if (!ends) answer.tokens.push_back(text.next);
    if (!ends && std::ssize(answer.tokens) < requests_[text.request].max_tokens) return false;
    answer.finish_reason = ends ? "stop" : "length";
    answer.finished = now();
    memory_ -= bytes(requests_[text.request]);
    if (on_answer_) on_answer_(text.request, answer);
    return true;
  }

  // One layer over rows of texts, `depths` of each.
  at::Tensor layer(const std::vector<DepthRows>& groups, const std::vector<Rows>& rows,
                   const std::vector<int64_t>& depths, const at::Tensor& x) {
    return run_shared_layer(groups, x, [&](const Projections& all) { return mix_all(rows, depths, all); });
  }

  at::Tensor mix_all(const std::vector<Rows>& rows, const std::vector<int64_t>& depths, const Projections& all) {
    if (steps_) return mix_steps(rows, depths, all);
    std::vector<at::Tensor> mixed;
    for (size_t i = 0; i < rows.size(); ++i) mixed.push_back(mix(rows[i], depths[i], all));
    return mixed.size() == 1 ? mixed.front() : at::cat(mixed);
  }

  // In compiled code, token after token; texts and heads side by side.
  at::Tensor mix_steps(const std::vector<Rows>& rows, const std::vector<int64_t>& depths, const Projections& all) {
    const auto wide = [](const at::Tensor& x) { return x.to(at::kFloat).contiguous(); };
    const at::Tensor q = wide(all.q), k = wide(all.k), v = wide(all.v), out = at::empty_like(q);
    const int64_t Hkv = config_.num_key_value_heads, D = config_.head_dim, H = config_.num_attention_heads;
    std::vector<int64_t> positions(static_cast<size_t>(q.size(0)));
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto depth = static_cast<size_t>(depths[i]);
      const int64_t seen = rows[i].text->seen[depth];
      for (int64_t t = 0; t < rows[i].count; ++t) positions[static_cast<size_t>(rows[i].begin + t)] = seen + t;
      steps_->prepare(depths[i], 1, seen + rows[i].count, rows[i].text->state.layers[depth]);
    }
    const Rotation turned = rotation(frequencies_, at::tensor(positions));
    const auto at_row = [](const at::Tensor& x, int64_t row) { return x.const_data_ptr<float>() + row * x.stride(0); };
    constexpr int64_t kWork = 1 << 15;  // numbers that are worth a thread
    const int64_t longest = *std::max_element(positions.begin(), positions.end()) + 1;
    const int64_t grain = std::max<int64_t>(1, kWork / (D * (longest + D)));
    at::parallel_for(0, std::ssize(rows) * Hkv, grain, [&](int64_t first, int64_t last) {
      void* const scratch = scratch_[static_cast<size_t>(at::get_thread_num())].mutable_data_ptr();
      for (int64_t job = first; job < last; ++job) {
        const Rows& of = rows[static_cast<size_t>(job / Hkv)];
        const int64_t depth = depths[static_cast<size_t>(job / Hkv)];
        for (int64_t row = of.begin; row < of.begin + of.count; ++row)
          steps_->head(depth, 0, job % Hkv,
                       {.q = at_row(q, row),
                        .k = at_row(k, row),
                        .v = at_row(v, row),
                        .o = out.mutable_data_ptr<float>() + row * H * D,
                        .cos = at_row(turned.cos, row),
                        .sin = at_row(turned.sin, row),
                        .seen = positions[static_cast<size_t>(row)]},
                       of.text->state.layers[static_cast<size_t>(depth)], scratch);
      }
    });
    for (size_t i = 0; i < rows.size(); ++i) rows[i].text->seen[static_cast<size_t>(depths[i])] += rows[i].count;
    return out.to(all.q.scalar_type());
  }

  at::Tensor mix(const Rows& of, int64_t depth, const Projections& all) {
    Text& text = *of.text;
    int64_t& seen = text.seen[static_cast<size_t>(depth)];
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, of.begin, of.count); };
    const Sequences tokens(std::vector<std::vector<int64_t>>{std::vector<int64_t>(static_cast<size_t>(of.count), 0)},
                           model_.device());
    const at::Tensor before = at::full({1}, seen, at::TensorOptions(at::kLong).device(model_.device()));
    const MixerContext context{tokens, rotation(frequencies_, tokens.positions() + seen), {seen}, before};
    TokenMixer& attention = decoder_.layers()[static_cast<size_t>(depth)]->attention();
    const at::Tensor out = attention.mix({part(all.q), part(all.k), part(all.v), at::Tensor()}, context,
                                         &text.state.layers[static_cast<size_t>(depth)]);
    seen += of.count;
    return out;
  }

  // Those that run now: all, or with the whole batch in one loop those whose token has not left.
  std::vector<Text*> running() const {
    std::vector<Text*> out;
    for (const auto& text : texts_)
      if (!text->left) out.push_back(text.get());
    std::stable_sort(out.begin(), out.end(), [](const Text* a, const Text* b) { return a->loop < b->loop; });
    return out;
  }

  void pass() {
    const std::vector<Text*> texts = running();
    std::vector<Rows> rows;
    std::vector<at::Tensor> inputs;
    int64_t count = 0;
    for (Text* text : texts) {
      std::vector<at::Tensor>& skipped = text->skipped[static_cast<size_t>(text->loop)];
      rows.push_back({text, count, std::ssize(skipped) + 1});
      inputs.insert(inputs.end(), skipped.begin(), skipped.end());
      inputs.push_back(text->x);
      count += rows.back().count;
      stats_.backfill += std::ssize(skipped);
      skipped.clear();
    }
    ++stats_.passes;
    stats_.rows += count;
    at::Tensor x = at::cat(inputs);
    for (size_t k = 0; k < plan_.loops.front().size(); ++k) {
      std::vector<DepthRows> groups;
      std::vector<int64_t> depths;
      for (const Rows& of : rows) {
        const int64_t depth = plan_.loops[static_cast<size_t>(of.text->loop)][k];
        DecoderLayer* layer = decoder_.layers()[static_cast<size_t>(depth)].get();
        if (groups.empty() || groups.back().layer != layer) groups.push_back({layer, of.begin, 0});
        groups.back().count += of.count;
        depths.push_back(depth);
      }
      x = layer(groups, rows, depths, x);
    }
    leave(rows, x);
  }

  // What comes out of a pass: tokens that leave, and those that go on.
  void leave(const std::vector<Rows>& rows, const at::Tensor& x) {
    const int64_t last = std::ssize(plan_.loops) - 1;
    std::vector<at::Tensor> finals;
    std::vector<Text*> judged;
    for (const Rows& of : rows) {
      Text& text = *of.text;
      // Those that had left before go on to wait for the next loop.
      if (text.loop < last)
        for (int64_t i = 0; i + 1 < of.count; ++i)
          text.skipped[static_cast<size_t>(text.loop) + 1].push_back(x.narrow(0, of.begin + i, 1).clone());
      text.x = x.narrow(0, of.begin + of.count - 1, 1);
      if (text.loop < last && !options_.exit) {
        ++text.loop;
        continue;
      }
      judged.push_back(&text);
      finals.push_back(text.x);
    }
    if (!judged.empty()) judge_all(judged, finals);
    go_on();
  }

  // Tokens that have left make room for the next ones of their texts: at once, or when those of all texts have.
  void go_on() {
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
  void judge_all(const std::vector<Text*>& texts, const std::vector<at::Tensor>& finals) {
    const int64_t last = std::ssize(plan_.loops) - 1;
    at::Tensor hidden = at::cat(finals);
    for (const int64_t depth : plan_.after) hidden = together(texts, depth, hidden);
    const at::Tensor logits = model_.logits(decoder_.normalize(hidden)), tokens = logits.argmax(-1).to(at::kCPU);
    std::vector<Verdict> verdicts;
    for (const Text* text : texts) verdicts.push_back(text->verdict);
    if (options_.exit) verdicts = judge(options_.exit->rule, logits, verdicts);
    std::map<int64_t, std::vector<Text*>> leaving;  // by loop
    for (size_t i = 0; i < texts.size(); ++i) {
      Text& text = *texts[i];
      text.verdict = verdicts[i];
      if (text.loop < last && !is_sure(*options_.exit, text.verdict)) {
        ++text.loop;
        continue;
      }
      ++stats_.left[static_cast<size_t>(text.loop)];
      ++stats_.tokens;
      answers_[text.request].loops += text.loop + 1;
      text.left = true;
      text.next = tokens.const_data_ptr<int64_t>()[i];
      leaving[text.loop].push_back(&text);
    }
    for (const auto& [loop, left] : leaving) skip_loops(left, static_cast<size_t>(loop) + 1);
  }

  // A layer of their own, of the last token of each.
  at::Tensor together(const std::vector<Text*>& texts, int64_t depth, const at::Tensor& x) {
    std::vector<Rows> rows;
    for (size_t i = 0; i < texts.size(); ++i) rows.push_back({texts[i], static_cast<int64_t>(i), 1});
    return layer({{decoder_.layers()[static_cast<size_t>(depth)].get(), 0, x.size(0)}}, rows,
                 std::vector<int64_t>(texts.size(), depth), x);
  }

  // What the loops from `next` on will know of tokens that have left before.
  void skip_loops(const std::vector<Text*>& texts, size_t next) {
    if (next == plan_.loops.size()) return;
    std::vector<at::Tensor> inputs;
    std::vector<Rows> rows;
    for (Text* text : texts) {
      if (options_.backfill == Backfill::kExact) text->skipped[next].push_back(text->x.clone());  // not the whole pass
      rows.push_back({text, std::ssize(inputs), 1});
      inputs.push_back(text->x);
    }
    if (options_.backfill == Backfill::kExact) return;
    const at::Tensor x = at::cat(inputs);
    for (size_t loop = next; loop < plan_.loops.size(); ++loop)
      for (const int64_t depth : plan_.loops[loop]) {
        DecoderLayer& layer = *decoder_.layers()[static_cast<size_t>(depth)];
        mix_all(rows, std::vector<int64_t>(rows.size(), depth), layer.attention().project(layer.attention_input(x)));
      }
  }

  CausalLM& model_;
  Decoder& decoder_;
  const ModelConfig& config_;
  const Plan plan_;
  const EngineOptions& options_;
  EngineStats& stats_;
  const std::vector<Request>& requests_;
  const std::function<void(size_t, const Answer&)>& on_answer_;
  std::vector<Answer> answers_;
  const at::Tensor frequencies_;
  std::optional<StepMixer> steps_;   // where the model can be decoded in compiled code
  std::vector<at::Tensor> scratch_;  // of each thread
  std::deque<size_t> waiting_;       // by arrival
  std::vector<std::unique_ptr<Text>> texts_;
  int64_t memory_ = 0;
  bool between_tokens_ = true;  // of all texts
  Clock::time_point start_;
};

}  // namespace

const char* to_string(Batching batching) {
  switch (batching) {
    case Batching::kStatic: return "static";
    case Batching::kSequence: return "sequence";
    case Batching::kDepth: return "depth";
  }
  return "?";
}

Batching batching_from_name(const std::string& name) {
  for (const Batching batching : kBatchings)
    if (name == to_string(batching)) return batching;
  fail(ErrorCode::kUsage, "batching: expected one of static, sequence, depth, got '", name, "'");
}

Engine::Engine(CausalLM& model, EngineOptions options) : model_(model), options_(std::move(options)) {
  LIGER_CHECK_USAGE(options_.batch >= 1, "batch: expected 1 or more, got ", options_.batch);
  LIGER_CHECK_USAGE(options_.memory >= 0, "memory: expected bytes, 0 for no limit, got ", options_.memory);
  const ModelConfig& config = model.config();
  LIGER_CHECK_USAGE(!options_.exit || (config.recursive && config.recursive->sharing == Sharing::kCycle),
                    "exit: expected a recursive model with sharing 'cycle', whose tokens can leave after any loop");
  for (const auto& module : model.named_modules("", /*include_self=*/false)) {
    const auto* linear = module.value()->as<Linear>();
    LIGER_CHECK_USAGE(linear == nullptr || !linear->has_dora(), "engine: ", module.key(),
                      ": expected LoRA, got DoRA; merge the adapter");
  }
  LIGER_CHECK_USAGE(!config.liger || config.liger->is_compiled(),
                    "engine: expected the key's gate and no learned features");
  model.eval();
}

std::vector<Answer> Engine::run(const std::vector<Request>& requests,
                                const std::function<void(size_t, const Answer&)>& on_answer) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const Request& request = requests[i];
    LIGER_CHECK_USAGE(!request.prompt.empty(), "request ", i, ": the prompt has no tokens");
    LIGER_CHECK_USAGE(request.max_tokens >= 1, "request ", i, ": max_tokens must be 1 or more, got ",
                      request.max_tokens);
    const int64_t bytes = state_bytes(model_, std::ssize(request.prompt) + request.max_tokens);
    LIGER_CHECK_USAGE(options_.memory == 0 || bytes <= options_.memory, "request ", i, ": may come to ", bytes,
                      " bytes of keys, values and states, and the limit is ", options_.memory);
  }
  const c10::InferenceMode inference;
  stats_ = {};
  return Run(model_, options_, stats_, requests, on_answer).run();
}

int64_t Engine::state_bytes(const CausalLM& model, int64_t tokens) {
  const ModelConfig& config = model.config();
  const int64_t row = config.num_key_value_heads * config.head_dim;
  int64_t bytes = 0;
  for (int64_t depth = 0; depth < config.num_hidden_layers; ++depth) {
    if (config.is_softmax_layer(depth)) {
      bytes += 2 * tokens * row * static_cast<int64_t>(c10::elementSize(model.dtype()));
      continue;
    }
    constexpr int64_t kFloat = 4;
    const MixSettings settings = mix_settings(config, depth);
    if (settings.window > 0)
      bytes += (settings.window + settings.sinks) * row * kFloat * (settings.beyond_window ? 3 : 2);
    if (!settings.recurrence.structure) continue;
    for (const StateShape& shape : state_shapes(*settings.recurrence.structure, config.head_dim))
      bytes += config.num_key_value_heads * shape.rows * shape.columns * kFloat;
  }
  return bytes;
}

}  // namespace liger
