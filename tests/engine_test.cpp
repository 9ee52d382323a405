// Many requests at once: every way to batch, with and without early exits, gives what each alone would.

#include "liger/generate/engine.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn_like.h>

#include <algorithm>

#include "io_test_util.h"
#include "liger/nn/lora.h"
#include "random_model.h"

namespace liger {
namespace {

struct Kind {
  const char* name;
  std::optional<LigerConfig> liger;
  std::optional<Recursion> recursive;
};

// Six layers, with pairs of every depth that matter.
std::shared_ptr<CausalLM> make_model(const Kind& kind) {
  ModelConfig config = test::random_config(80, kind.liger);
  config.num_hidden_layers = 6;
  config.recursive = kind.recursive;
  auto model = test::random_model(config, 5);
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
                       {"recommended", test::recommended(), Recursion{.loops = 2}}};

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
      if (kind.liger && policy.rule != ExitRule::kMargin) continue;
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
          if (policy.rule != ExitRule::kPatience || kind.recursive->loops > 2) EXPECT_GT(early, 0);
        }
    }
  }
}

TEST(Engine, PropagatedKeysAreThereAtOnce) {
  const auto model = make_model(kKinds[1]);
  const ExitPolicy policy{ExitRule::kMargin, 0.2};
  Engine engine(*model, {.batch = 3, .exit = policy, .backfill = Backfill::kPropagate});
  const std::vector<Request> requests = make_requests(6);
  const std::vector<Answer> answers = engine.run(requests);
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(std::ssize(answers[i].tokens), requests[i].max_tokens);
  EXPECT_EQ(engine.stats().backfill, 0);
  EXPECT_GT(engine.stats().left.front(), 0);
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
        bytes += Engine::state_bytes(*model, std::ssize(requests[i].prompt) + requests[i].max_tokens);
    EXPECT_LE(bytes, most);
  }
  EXPECT_EQ(Engine::state_bytes(*model, 20), 2 * 20 * 2 * 8 * 4 * 6);
  requests[1].max_tokens = 1000;
  EXPECT_LIGER_ERROR(engine.run(requests), ErrorCode::kUsage, "request 1: may come to");
}

TEST(Engine, WhatItCannotDoIsRefused) {
  const auto middle = make_model(kKinds[4]), plain = make_model(kKinds[0]);
  const EngineOptions exits{.exit = ExitPolicy{}};
  EXPECT_LIGER_ERROR(Engine(*middle, exits), ErrorCode::kUsage, "sharing 'cycle'");
  EXPECT_LIGER_ERROR(Engine(*plain, exits), ErrorCode::kUsage, "recursive model");
  EXPECT_LIGER_ERROR(Engine(*plain, {.batch = 0}), ErrorCode::kUsage, "batch: expected 1 or more");
  Engine engine(*plain, {});
  EXPECT_LIGER_ERROR(engine.run({Request{}}), ErrorCode::kUsage, "request 0: the prompt has no tokens");
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
  }
  EXPECT_LT(fit_exit(*model, texts, ExitRule::kMargin, 0.5).mean_loops(), 3);
  EXPECT_LIGER_ERROR(fit_exit(*model, texts, ExitRule::kMargin, 1), ErrorCode::kUsage, "share of tokens");
}

}  // namespace
}  // namespace liger
