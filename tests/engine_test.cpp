// Many requests at once: every way to batch, with and without early exits, gives what each alone would.

#include "liger/generate/engine.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "io_test_util.h"
#include "liger/nn/lora.h"
#include "liger/nn/step_decoder.h"
#include "nn/decoder.h"
#include "nn/step_rows.h"
#include "random_model.h"

namespace liger {
namespace {

struct Kind {
  const char* name;
  std::optional<LigerConfig> liger;
  std::optional<Recursion> recursive;
  const char* family = "llama";
  bool biases = false;
};

// Six layers, with pairs of every depth that matter.
std::shared_ptr<CausalLM> make_model(const Kind& kind, at::ScalarType type = at::kFloat) {
  ModelConfig config = test::random_config(80, kind.liger);
  config.num_hidden_layers = 6;
  config.recursive = kind.recursive;
  test::become(config, kind.family);
  config.logit_softcap = config.attention_softcap > 0 ? 20 : 0;  // so that exits may be sure
  if (kind.biases) config.attention_bias = config.mlp_bias = true;
  auto model = test::random_model(config, 5, type);
  const at::NoGradGuard no_grad;
  add_lora(*model, {.r = 3, .alpha = 3, .targets = {.regex = "all-linear"}});
  at::manual_seed(8);
  for (auto& item : model->named_parameters())
    if (item.key().ends_with(".lora_B") || item.value().dim() == 1)
      item.value().add_(0.2 * at::randn_like(item.value()));
  model->eval();
  return model;
}

std::vector<Request> make_requests(int64_t count) {
  std::vector<Request> out;
  for (int64_t i = 0; i < count; ++i) {
    Request request;
    for (int64_t j = 0; j <= i * 5 % 7; ++j) request.prompt.push_back(2 + (i * 13 + j * 29) % 70);
    request.max_tokens = 1 + i * 7 % 12;
    out.push_back(request);
  }
  return out;
}

// One token after the other, with all layers, or leaving as the policy says: the definition, over whole texts.
std::vector<int64_t> alone(CausalLM& model, const Request& request, const std::optional<ExitPolicy>& policy,
                           const std::vector<int64_t>& ends) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> text = request.prompt, out;
  while (std::ssize(out) < request.max_tokens) {
    const Sequences tokens({text});
    const bool first = out.empty();
    std::vector<at::Tensor> exits = {model.hidden_states(tokens)};
    if (policy && !first) exits = model.exit_states(tokens);
    std::vector<Verdict> verdict;
    for (size_t loop = 0; loop < exits.size(); ++loop) {
      const at::Tensor logits = model.logits(exits[loop].narrow(0, tokens.tokens() - 1, 1));
      verdict = judge(policy ? policy->rule : ExitRule::kMargin, logits, verdict);
      if (loop + 1 == exits.size() || is_sure(*policy, verdict.front())) break;
    }
    const int64_t id = verdict.front().token;
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) break;
    out.push_back(id);
    text.push_back(id);
  }
  return out;
}

const Kind kKinds[] = {{"plain", {}, {}},
                       {"cycle", {}, Recursion{.loops = 2}},
                       {"cycle, 3 loops, norms", {}, Recursion{.loops = 3, .depth_norms = true}},
                       {"sequence", {}, Recursion{.loops = 2, .sharing = Sharing::kSequence}},
                       {"middle", {}, Recursion{.loops = 2, .sharing = Sharing::kMiddleCycle}},
                       {"linearized", test::short_window(), Recursion{.loops = 3}},
                       {"recommended", test::recommended(), Recursion{.loops = 2}},
                       {"gpt-neox", {}, Recursion{.loops = 2, .depth_norms = true, .depth_biases = true}, "gpt_neox"},
                       {"gpt-neox, linearized", test::short_window(), Recursion{.loops = 3}, "gpt_neox"},
                       {"biases", {}, Recursion{.loops = 2}, "llama", true},
                       {"biases of depths", {}, Recursion{.loops = 3, .depth_biases = true}, "llama", true},
                       {"mistral", {}, Recursion{.loops = 2, .sharing = Sharing::kSequence}, "mistral"},
                       {"qwen3", {}, Recursion{.loops = 3, .depth_norms = true}, "qwen3"},
                       {"qwen3, linearized", test::short_window(), Recursion{.loops = 3, .depth_norms = true}, "qwen3"},
                       {"gemma 2", {}, Recursion{.loops = 3, .depth_norms = true}, "gemma2"},
                       {"gemma 3", {}, Recursion{.loops = 3, .depth_norms = true}, "gemma3_text"},
                       {"gemma 3, linearized", test::short_window(), Recursion{.loops = 3}, "gemma3_text"}};

TEST(Engine, TextsAreWhatTheyWouldBeAlone) {
  const std::vector<Request> requests = make_requests(9);
  const std::vector<int64_t> ends = {7, 9};
  for (const Kind& kind : kKinds) {
    const auto model = make_model(kind);
    std::vector<std::vector<int64_t>> expected;
    for (const Request& request : requests) expected.push_back(alone(*model, request, {}, ends));
    for (const Batching batching : {Batching::kStatic, Batching::kSequence, Batching::kDepth})
      for (const int64_t batch : {1, 4}) {
        SCOPED_TRACE(cat(kind.name, ", ", to_string(batching), ", ", batch));
        Engine engine(*model, {.batching = batching, .batch = batch, .end_ids = ends});
        const std::vector<Answer> answers = engine.run(requests);
        for (size_t i = 0; i < answers.size(); ++i) {
          EXPECT_EQ(answers[i].tokens, expected[i]) << "request " << i;
          const bool full = std::ssize(expected[i]) == requests[i].max_tokens;
          EXPECT_EQ(answers[i].finish_reason, full ? "length" : "stop") << i;
          EXPECT_LE(answers[i].admitted, answers[i].first_token);
          EXPECT_LE(answers[i].first_token, answers[i].finished);
        }
      }
  }
}

TEST(Engine, ExitsAreThoseOfEachAlone) {
  const std::vector<Request> requests = make_requests(7);
  for (const Kind& kind : kKinds) {
    if (!kind.recursive || kind.recursive->sharing != Sharing::kCycle) continue;
    const auto model = make_model(kind);
    for (const ExitPolicy& policy : {ExitPolicy{ExitRule::kMargin, 0.2}, ExitPolicy{ExitRule::kEntropy, 2.0},
                                     ExitPolicy{ExitRule::kPatience, 1}}) {
      // Norms of outputs keep these logits too flat for an entropy of 2.
      const bool flat = model->config().family->output_norms;
      if ((kind.liger || flat) && policy.rule != ExitRule::kMargin) continue;
      std::vector<std::vector<int64_t>> expected;
      for (const Request& request : requests) expected.push_back(alone(*model, request, policy, {}));
      for (const Batching batching : {Batching::kStatic, Batching::kSequence, Batching::kDepth})
        for (const int64_t batch : {1, 5}) {
          SCOPED_TRACE(cat(kind.name, ", ", to_string(policy.rule), ", ", to_string(batching), ", ", batch));
          Engine engine(*model, {.batching = batching, .batch = batch, .exit = policy});
          const std::vector<Answer> answers = engine.run(requests);
          for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i].tokens, expected[i]) << "request " << i;
          const EngineStats& stats = engine.stats();
          const int64_t early = stats.tokens - stats.left.back();
          if (policy.rule != ExitRule::kPatience || kind.recursive->loops > 2) {
            EXPECT_GT(early, 0);
          }
        }
    }
  }
}

// More of them than go into one pass.
TEST(Engine, ManyTokensThatLeftAreMadeUpInOrder) {
  std::vector<Request> requests = make_requests(3);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].max_tokens = 90 + 10 * static_cast<int64_t>(i);
  const auto model = make_model(kKinds[2]);
  const ExitPolicy policy{ExitRule::kMargin, 0.02};
  std::vector<std::vector<int64_t>> expected;
  for (const Request& request : requests) expected.push_back(alone(*model, request, policy, {}));
  for (const Batching batching : {Batching::kSequence, Batching::kDepth}) {
    Engine engine(*model, {.batching = batching, .batch = 2, .exit = policy});
    const std::vector<Answer> answers = engine.run(requests);
    for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i].tokens, expected[i]) << "request " << i;
    EXPECT_GT(engine.stats().left.front(), 200);  // of 300
    EXPECT_GT(engine.stats().backfill, 100);
  }
}

// The definition: layers after an exit see the state it left with, of which they keep keys and values only.
std::vector<int64_t> alone_propagated(CausalLM& model, const Request& request, const ExitPolicy& policy) {
  const c10::InferenceMode inference;
  const ModelConfig& config = model.config();
  Decoder& decoder = model.decoder();
  const at::Tensor frequencies = rope_frequencies(config.rope, config.head_dim, at::kCPU);
  const auto likeliest = [&](const at::Tensor& x, const std::vector<Verdict>& before) {
    return judge(policy.rule, model.logits(x.narrow(0, x.size(0) - 1, 1)), before);
  };
  DecodingState state;
  std::vector<int64_t> out = {likeliest(model.hidden_states(Sequences({request.prompt}), &state), {}).front().token};
  for (int64_t seen = std::ssize(request.prompt); std::ssize(out) < request.max_tokens; ++seen) {
    const Sequences token(std::vector<std::vector<int64_t>>{{out.back()}});
    const MixerContext context{
        token, rotation(frequencies, token.positions() + seen), {seen}, at::full({1}, seen, at::kLong)};
    at::Tensor x = decoder.embed(token);
    const std::vector<int64_t> ends = config.recursive->loop_ends(config.num_hidden_layers);
    std::vector<Verdict> verdict;
    bool left = false;
    for (int64_t depth = 0; depth < config.num_hidden_layers; ++depth) {
      DecoderLayer& layer = *decoder.layers()[static_cast<size_t>(depth)];
      LayerState* const memory = &state.layers[static_cast<size_t>(depth)];
      if (left) {
        layer.attention().mix(layer.attention().project(layer.attention_input(x)), context, memory);
        continue;
      }
      x = layer.forward(x, context, memory);
      if (std::find(ends.begin(), ends.end(), depth) == ends.end()) continue;
      verdict = likeliest(decoder.normalize(x), verdict);
      left = is_sure(policy, verdict.front());
    }
    out.push_back(verdict.front().token);
  }
  return out;
}

TEST(Engine, PropagatedKeysAreThoseOfTheStateATokenLeftWith) {
  const std::vector<Request> requests = make_requests(6);
  for (const Kind& kind : {kKinds[1], kKinds[2], kKinds[5], kKinds[10]}) {
    const auto model = make_model(kind);
    const ExitPolicy policy{ExitRule::kMargin, 0.2};
    for (const Batching batching : {Batching::kSequence, Batching::kDepth}) {
      SCOPED_TRACE(cat(kind.name, ", ", to_string(batching)));
      Engine engine(*model, {.batching = batching, .batch = 3, .exit = policy, .backfill = Backfill::kPropagate});
      const std::vector<Answer> answers = engine.run(requests);
      for (size_t i = 0; i < answers.size(); ++i)
        EXPECT_EQ(answers[i].tokens, alone_propagated(*model, requests[i], policy)) << "request " << i;
      EXPECT_EQ(engine.stats().backfill, 0);
      EXPECT_GT(engine.stats().left.front(), 0);
    }
  }
}

// Bit for bit, so in bfloat16 as well.
TEST(Engine, TextsAreThoseOfTheStepDecoder) {
  const std::vector<Request> requests = make_requests(9);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const auto model = make_model(kKinds[1], type);
    Engine engine(*model, {.batch = 5});
    const std::vector<Answer> answers = engine.run(requests);
    const c10::InferenceMode inference;
    for (size_t i = 0; i < requests.size(); ++i) {
      DecodingState state;
      const at::Tensor hidden = model->hidden_states(Sequences({requests[i].prompt}), &state);
      std::vector<int64_t> text = {model->logits(hidden.narrow(0, hidden.size(0) - 1, 1)).argmax(-1).item<int64_t>()};
      StepDecoder steps(*model, 1);
      while (std::ssize(text) < requests[i].max_tokens)
        text.push_back(steps.step(std::span(&text.back(), 1), state).argmax(-1).item<int64_t>());
      EXPECT_EQ(answers[i].tokens, text) << toString(type) << ", request " << i;
    }
  }
}

TEST(StepRows, ARowIsTheSameWhateverTheBatch) {
  const c10::InferenceMode inference;
  const auto model = make_model(kKinds[2]);
  StepRows steps(*model);
  const std::vector<int64_t> counts = {1, 3, 1, 1, 2, 5, 1};
  const int64_t all = 14, layers = 2;
  const at::Tensor x = at::randn({all, model->config().hidden_size});
  const auto fresh = [&] { return DecodingState{.layers = std::vector<LayerState>(6), .seen = {0}}; };
  std::vector<DecodingState> states(counts.size(), fresh());
  std::vector<TextRows> rows;
  int64_t begin = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    rows.push_back({&states[i], i < 3 ? 0 : i < 5 ? 2 : 4, 0, begin, counts[i]});
    begin += counts[i];
  }
  const at::Tensor together = x.clone();
  steps.run(rows, layers, together);
  for (const TextRows& of : rows) {
    DecodingState state = fresh();
    const at::Tensor alone = x.narrow(0, of.begin, of.count).clone();
    steps.run({{&state, of.depth, 0, 0, of.count}}, layers, alone);
    EXPECT_TRUE(alone.equal(together.narrow(0, of.begin, of.count))) << of.begin;
    const std::vector<RowChoice> here = steps.choose(together, {{of.begin, ChoiceSums::kTotalAndEntropy}}),
                                 there = steps.choose(alone, {{0, ChoiceSums::kTotalAndEntropy}});
    EXPECT_EQ(here.front().first, there.front().first);
    EXPECT_EQ(here.front().entropy, there.front().entropy);
  }
}

TEST(Engine, DepthWiseNeedsFewerPasses) {
  const auto model = make_model(kKinds[2]);
  const std::vector<Request> requests = make_requests(16);
  const auto passes = [&](Batching batching) {
    Engine engine(*model, {.batching = batching, .batch = 4, .exit = ExitPolicy{ExitRule::kMargin, 0.2}});
    engine.run(requests);
    return engine.stats().passes;
  };
  const int64_t all = passes(Batching::kStatic), sequence = passes(Batching::kSequence),
                depth = passes(Batching::kDepth);
  EXPECT_LT(sequence, all);
  EXPECT_LT(depth, sequence);
}

TEST(Engine, ArrivalsAndMemoryBoundWhatIsAdmitted) {
  const auto model = make_model(kKinds[1]);
  std::vector<Request> requests = make_requests(4);
  requests[0].arrival = 0.15;
  const int64_t most = Engine::state_bytes(*model, 20);
  Engine engine(*model, {.batch = 4, .memory = most});
  const std::vector<Answer> answers = engine.run(requests);
  EXPECT_GE(answers[0].admitted, 0.15);
  for (const Answer& now : answers) {  // texts that are there when another comes in
    int64_t bytes = 0;
    for (size_t i = 0; i < answers.size(); ++i)
      if (answers[i].admitted <= now.admitted && answers[i].finished > now.admitted)
        bytes += engine.text_bytes(requests[i]);
    EXPECT_LE(bytes, most);
  }
  EXPECT_LE(engine.stats().most_bytes, most);
  EXPECT_EQ(Engine::state_bytes(*model, 20), 2 * 20 * 2 * 8 * 4 * 6);
  requests[1].max_tokens = 1000;
  EXPECT_LIGER_ERROR(engine.run(requests), ErrorCode::kUsage, "request 1: may come to");
}

// What is set aside is what is held: no room that a cache doubles into, and tokens that wait are counted.
TEST(Engine, WhatARequestMayComeToIsWhatItHolds) {
  const Request request{.prompt = {2, 3, 4, 5, 6}, .max_tokens = 40};
  for (const Kind& kind : {kKinds[0], kKinds[1], kKinds[4], kKinds[5], kKinds[6]}) {
    SCOPED_TRACE(kind.name);
    const auto model = make_model(kind);
    Engine engine(*model, {.batch = 2});
    engine.run({request});
    EXPECT_EQ(engine.stats().most_bytes, engine.text_bytes(request));
    if (!kind.recursive || kind.recursive->sharing != Sharing::kCycle) continue;
    Engine exits(*model, {.batch = 2, .exit = ExitPolicy{ExitRule::kMargin, 0}});  // every token leaves at once
    exits.run({request});
    const int64_t row = model->config().hidden_size * 4;
    EXPECT_EQ(exits.stats().most_bytes, engine.text_bytes(request) + (request.max_tokens - 1) * row);
    EXPECT_EQ(exits.text_bytes(request), engine.text_bytes(request) + request.max_tokens * row);
  }
}

TEST(Engine, WhatItCannotDoIsRefused) {
  const auto middle = make_model(kKinds[4]), plain = make_model(kKinds[0]);
  const EngineOptions exits{.exit = ExitPolicy{}};
  EXPECT_LIGER_ERROR(Engine(*middle, exits), ErrorCode::kUsage, "sharing 'cycle'");
  EXPECT_LIGER_ERROR(Engine(*plain, exits), ErrorCode::kUsage, "recursive model");
  EXPECT_LIGER_ERROR(Engine(*plain, {.batch = 0}), ErrorCode::kUsage, "batch: expected 1 or more");
  EXPECT_LIGER_ERROR(fit_exit(*middle, {Sequences({{2, 3}})}, ExitRule::kMargin, 0), ErrorCode::kUsage,
                     "sharing 'cycle'");
  const auto cycle = make_model(kKinds[1]);
  for (const auto& [rule, threshold, message] :
       {std::tuple{ExitRule::kMargin, 1.5, "a margin is from 0 to 1, got 1.5"},
        std::tuple{ExitRule::kMargin, std::nan(""), "a margin is from 0 to 1"},
        std::tuple{ExitRule::kEntropy, -0.5, "an entropy is 0 or more, got -0.5"},
        std::tuple{ExitRule::kPatience, 0.0, "patience is a whole number of loops, 1 or more"},
        std::tuple{ExitRule::kPatience, 1.5, "patience is a whole number of loops, 1 or more"}})
    EXPECT_LIGER_ERROR(Engine(*cycle, {.exit = ExitPolicy{rule, threshold}}), ErrorCode::kUsage, message);
  Engine engine(*plain, {});
  EXPECT_LIGER_ERROR(engine.run({Request{}}), ErrorCode::kUsage, "request 0: the prompt has no tokens");
}

// What the rules say of rows of logits, by softmax over them.
TEST(Judge, IsWhatSoftmaxSays) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble})
    for (const int64_t V : {2, 3, 16, 67, 1000, 4099}) {
      at::manual_seed(static_cast<uint64_t>(V));
      const at::Tensor logits = 4 * at::randn({5, V}, type), log_p = logits.to(at::kDouble).log_softmax(1);
      const at::Tensor sorted = std::get<0>(log_p.exp().sort(1, /*descending=*/true));
      const at::Tensor entropy = -(log_p.exp() * log_p).sum(1), best = logits.argmax(1);
      const std::vector<Verdict> margins = judge(ExitRule::kMargin, logits, {}),
                                 entropies = judge(ExitRule::kEntropy, logits, {}),
                                 patience = judge(ExitRule::kPatience, logits,
                                                  {{best[0].item<int64_t>(), 2}, {-1, 0}, {-1, 0}, {-1, 0}, {-1, 0}});
      const double near = type == at::kDouble ? 1e-12 : 2e-6;
      for (int64_t i = 0; i < 5; ++i) {
        const auto at = static_cast<size_t>(i);
        EXPECT_EQ(margins[at].token, best[i].item<int64_t>());
        EXPECT_NEAR(margins[at].score, (sorted[i][0] - sorted[i][1]).item<double>(), near);
        EXPECT_NEAR(entropies[at].score, entropy[i].item<double>(), near * std::log(static_cast<double>(V)) * 2);
        EXPECT_EQ(patience[at].score, i == 0 ? 3 : 0);
      }
    }
  at::Tensor logits = at::zeros({1, 40});
  logits[0][7] = 1, logits[0][33] = 1;
  EXPECT_EQ(judge(ExitRule::kMargin, logits, {}).front().token, 7);  // the first of equals
  EXPECT_EQ(judge(ExitRule::kMargin, logits, {}).front().score, 0);
  for (const int64_t i : {5, 39}) {
    at::Tensor bad = logits.clone();
    bad[0][i] = std::nan("");
    EXPECT_LIGER_ERROR(judge(ExitRule::kMargin, bad, {}), ErrorCode::kBadInput, "logits are not finite");
  }
}

// Of every position after each loop, by `judge`.
std::vector<std::vector<Verdict>> judged(CausalLM& model, const std::vector<Sequences>& texts, ExitRule rule) {
  const at::NoGradGuard no_grad;
  std::vector<std::vector<Verdict>> out;
  for (const Sequences& text : texts) {
    std::vector<std::vector<Verdict>> loops;
    for (const at::Tensor& hidden : model.exit_states(text))
      loops.push_back(judge(rule, model.logits(hidden), loops.empty() ? std::vector<Verdict>{} : loops.back()));
    for (size_t i = 0; i < loops.front().size(); ++i) {
      out.emplace_back();
      for (const auto& loop : loops) out.back().push_back(loop[i]);
    }
  }
  return out;
}

ExitOutcome outcome_of(const std::vector<std::vector<Verdict>>& positions, const ExitPolicy& policy) {
  ExitOutcome out{.policy = policy, .left = std::vector<int64_t>(positions.front().size(), 0), .different = 0};
  for (const auto& loops : positions) {
    const auto found = std::find_if(loops.begin(), loops.end() - 1, [&](const Verdict& v) {
      return policy.rule == ExitRule::kEntropy ? v.score <= policy.threshold : v.score >= policy.threshold;
    });
    ++out.left[static_cast<size_t>(found - loops.begin())];
    out.different += found->token != loops.back().token;
  }
  return out;
}

TEST(FitExit, TheLoosestThresholdThatKeepsItsPromise) {
  const auto model = make_model(kKinds[2]);
  std::vector<Sequences> texts;
  for (const Request& request : make_requests(12)) texts.push_back(Sequences({request.prompt}));
  for (const ExitRule rule : {ExitRule::kMargin, ExitRule::kEntropy, ExitRule::kPatience}) {
    const ExitOutcome none = fit_exit(*model, texts, rule, 0), some = fit_exit(*model, texts, rule, 0.2);
    EXPECT_EQ(none.different, 0);
    EXPECT_GE(some.agreement(), 0.8);
    EXPECT_LE(some.mean_loops(), none.mean_loops());
    EXPECT_EQ(some.tokens(), none.tokens());
    EXPECT_EQ(some.left.size(), 3);
    const auto positions = judged(*model, texts, rule);
    const ExitOutcome again = outcome_of(positions, some.policy);
    EXPECT_EQ(again.left, some.left) << to_string(rule);
    EXPECT_EQ(again.different, some.different) << to_string(rule);
    for (const auto& loops : positions)  // none that keeps the promise is faster
      for (const Verdict& verdict : loops) {
        if (rule == ExitRule::kPatience && verdict.score < 1) continue;
        const ExitOutcome other = outcome_of(positions, {rule, verdict.score});
        if (other.agreement() < 0.8) continue;
        EXPECT_GE(other.mean_loops(), some.mean_loops()) << to_string(rule) << " " << verdict.score;
      }
    EXPECT_LT(fit_exit(*model, texts, rule, 0.99).mean_loops(), 3) << to_string(rule);
  }
  const ExitPolicy never = ExitPolicy::never(ExitRule::kEntropy);
  EXPECT_TRUE(never.is_never());
  EXPECT_FALSE(is_sure(never, {0, 0}));
  EXPECT_LT(fit_exit(*model, texts, ExitRule::kMargin, 0.5).mean_loops(), 3);
  EXPECT_LIGER_ERROR(fit_exit(*model, texts, ExitRule::kMargin, 1), ErrorCode::kUsage, "share of tokens");
}

}  // namespace
}  // namespace liger
