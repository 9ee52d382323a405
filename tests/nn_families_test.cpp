// What every family must do alike, with softmax attention and linearized: decode what a whole text says, in compiled
// code where there is some; norms of heads, softcaps and the scale of scores in Liger layers.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include "liger/nn/step_decoder.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/ops/linear_distillation.h"
#include "liger/ops/ops.h"
#include "nn/decoder.h"
#include "random_model.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using testing::expect_close;

ModelConfig config_of(const char* family, std::optional<LigerConfig> liger = {}) {
  ModelConfig config = test::random_config(60, std::move(liger));
  config.num_hidden_layers = 3;
  test::become(config, family);
  return config;
}

std::shared_ptr<CausalLM> make(const ModelConfig& config, at::ScalarType type = at::kFloat) {
  auto model = test::random_model(config, 4, type);
  const at::NoGradGuard no_grad;
  for (auto& item : model->named_parameters())
    if (item.value().dim() == 1) item.value().add_(0.2 * at::randn_like(item.value()));
  return model;
}

std::vector<int64_t> text(int64_t length, int64_t seed) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back((seed * 7919 + i * i * 31 + i * 17) % 60);
  return ids;
}

at::Tensor logits(CausalLM& model, const Sequences& tokens, DecodingState* state = nullptr) {
  const at::NoGradGuard no_grad;
  return model.logits(model.hidden_states(tokens, state));
}

std::vector<std::optional<LigerConfig>> structures_to_try() {
  LigerConfig sinks{.recurrence = "hgrn2", .window = 5, .sinks = 2}, hybrid = test::short_window();
  hybrid.softmax_layers = {1};
  return {{},
          test::short_window(),
          sinks,
          hybrid,
          test::recommended(),
          LigerConfig{.recurrence = "swa", .window = 5},
          LigerConfig{.recurrence = "gated-deltanet", .window = 0}};
}

// Two texts of unequal length in parts, past every window.
TEST(EveryFamily, DecodesWhatTheWholeTextSays) {
  for (const Family* family : families())
    for (const auto& liger : structures_to_try()) {
      SCOPED_TRACE(cat(family->model_type, " ", liger ? liger->recurrence : "softmax"));
      const auto model = make(config_of(family->model_type, liger));
      const std::vector<std::vector<int64_t>> texts = {text(24, 1), text(19, 2)};
      DecodingState state;
      std::vector<std::vector<at::Tensor>> rows(2);
      for (int64_t begin = 0, step = 9; begin < 19; begin += step, step = begin == 9 ? 4 : 1) {
        const int64_t count = std::min<int64_t>(step, 19 - begin);
        std::vector<std::vector<int64_t>> part;
        for (const auto& ids : texts) part.emplace_back(ids.begin() + begin, ids.begin() + begin + count);
        const at::Tensor got = logits(*model, Sequences(part), &state);
        for (int64_t s = 0; s < 2; ++s) rows[s].push_back(got.narrow(0, s * count, count));
      }
      for (int64_t s = 0; s < 2; ++s)
        expect_close(at::cat(rows[s]), logits(*model, Sequences({texts[s]})).narrow(0, 0, 19), 2e-5, "logits");
    }
}

TEST(EveryFamily, HasCompiledStepsThatSayTheSameOrNone) {
  for (const Family* family : families())
    for (const auto& liger : structures_to_try()) {
      SCOPED_TRACE(cat(family->model_type, " ", liger ? liger->recurrence : "softmax"));
      const auto model = make(config_of(family->model_type, liger));
      const bool without = family->fused_attention() || family->attention_softcap_key || family->logit_softcap_key;
      ASSERT_EQ(StepDecoder::supports(*model), !without);
      if (without) continue;
      const at::NoGradGuard no_grad;
      const std::vector<int64_t> ids = text(20, 3);
      DecodingState state;
      StepDecoder steps(*model, 1);
      std::vector<at::Tensor> rows;
      for (const int64_t id : ids) rows.push_back(steps.step(std::span(&id, 1), state).clone());
      expect_close(at::cat(rows), logits(*model, Sequences({ids})), 2e-5, "logits");
    }
}

// A Gemma 3 whose logits have no cap.
TEST(EveryFamily, Gemma3HasCompiledSteps) {
  for (const auto& liger : structures_to_try()) {
    ModelConfig config = config_of("gemma3_text", liger);
    config.logit_softcap = 0;
    const auto model = make(config);
    ASSERT_TRUE(StepDecoder::supports(*model));
    const at::NoGradGuard no_grad;
    const std::vector<int64_t> ids = text(20, 3);
    DecodingState state;
    StepDecoder steps(*model, 1);
    std::vector<at::Tensor> rows;
    for (const int64_t id : ids) rows.push_back(steps.step(std::span(&id, 1), state).clone());
    expect_close(at::cat(rows), logits(*model, Sequences({ids})), 2e-5, "logits");
  }
}

// Compiled mixers say what LibTorch's operators do, with the local RoPE and the norms before them.
TEST(EveryFamily, BackendsAgree) {
  for (const Family* family : families())
    for (const auto& liger : structures_to_try()) {
      if (!liger) continue;
      SCOPED_TRACE(cat(family->model_type, " ", liger->recurrence));
      ModelConfig config = config_of(family->model_type, liger);
      const auto fast = make(config);
      config.backend = Backend::kTorch;
      const auto slow = make(config);
      const Sequences tokens({text(24, 1), text(11, 2)});
      expect_close(logits(*fast, tokens), logits(*slow, tokens), 2e-5, "logits");
    }
}

TEST(EveryFamily, ItsTeacherIsTheModelWithSoftmax) {
  for (const Family* family : families()) {
    const auto linear = make(config_of(family->model_type, test::short_window()));
    const auto softmax = make(config_of(family->model_type));
    const Sequences tokens({text(24, 1)});
    EXPECT_TRUE(logits(*linear->teacher(), tokens).equal(logits(*softmax, tokens))) << family->model_type;
    EXPECT_FALSE(logits(*linear, tokens).allclose(logits(*softmax, tokens), 1e-2, 1e-2)) << family->model_type;
  }
}

// The gate is that of the normed key: what a layer mixes is what its norms made of the projections.
TEST(LigerLayers, ReadNormedQueriesAndKeys) {
  const at::NoGradGuard no_grad;
  for (const char* family : {"qwen3", "gemma3_text"}) {
    const ModelConfig config = config_of(family, test::short_window());
    const auto model = make(config, at::kDouble);
    const auto weights = model->named_parameters();
    const auto of = [&](const char* name) { return weights[cat("model.layers.0.self_attn.", name, ".weight")]; };
    const at::Tensor x = at::randn({5, config.hidden_size}, at::kDouble);
    const auto normed = [&](const char* linear, const char* norm, int64_t heads) {
      const at::Tensor y = at::matmul(x, of(linear).t()).view({5, heads, config.head_dim});
      const at::Tensor scaled = y / (y.square().mean(-1, true) + config.norm_eps).sqrt();
      return scaled * (of(norm) + (config.family->norm_adds_one ? 1.0 : 0.0));
    };
    const Projections got = model->decoder().layers()[0]->attention().project(x);
    expect_close(got.k, normed("k_proj", "k_norm", 2), 1e-12, "keys");
    expect_close(got.q, normed("q_proj", "q_norm", 4) * config.query_factor(), 1e-12, "queries");
    EXPECT_FALSE(got.gate.defined());  // which means: the key
  }
}

// A window wider than the text and nothing else is the softmax layer: caps and scale are in it.
TEST(LigerLayers, AWindowOverEverythingIsSoftmaxAttention) {
  for (const Family* family : families()) {
    ModelConfig config = config_of(family->model_type, LigerConfig{.recurrence = "swa", .window = 40});
    config.sliding_window = config.sliding_layers.empty() ? 0 : 40;
    const auto linear = make(config);
    config.liger.reset();
    const auto softmax = make(config);
    const Sequences tokens({text(30, 1), text(7, 2)});
    expect_close(logits(*linear, tokens), logits(*softmax, tokens), 2e-5, family->model_type);
  }
}

TEST(SlidingLayers, SeeTheLastTokensOnly) {
  ModelConfig config = config_of("mistral");
  config.num_hidden_layers = 1;
  config.sliding_layers = {true};
  const auto model = make(config);
  std::vector<int64_t> ids = text(300, 1);  // more than a block of queries
  const at::Tensor before = logits(*model, Sequences({ids}));
  ids[250] = (ids[250] + 1) % 60;
  const at::Tensor changed = (logits(*model, Sequences({ids})) - before).abs().amax(1);
  for (int64_t t = 0; t < 300; ++t)
    EXPECT_EQ(changed[t].item<float>() > 1e-6, t >= 250 && t < 250 + config.sliding_window) << t;
}

TEST(SlidingLayers, AWindowIsTheSameInBlocksOfQueries) {
  at::manual_seed(1);
  const at::Tensor q = at::randn({2, 600, 4, 8}), k = at::randn({2, 600, 2, 8}), v = at::randn({2, 600, 2, 8});
  for (const double cap : {0.0, 1.5}) {
    const at::Tensor whole = causal_attention(q, k, v, {}, {.window = 50, .softcap = cap});
    const at::Tensor defined = window_attention(q, k, v, 50, {}, nullptr, cap);
    expect_close(whole, defined, 1e-5, "attention");
    const at::Tensor seen = at::tensor({int64_t{300}, int64_t{20}});
    const at::Tensor some = at::cat({q[0].narrow(0, 300, 280).unsqueeze(0), q[1].narrow(0, 20, 280).unsqueeze(0)});
    const at::Tensor got = causal_attention(some, k, v, seen, {.window = 50, .softcap = cap});
    expect_close(got[0], whole[0].narrow(0, 300, 280), 1e-5, "the first text");
    expect_close(got[1], whole[1].narrow(0, 20, 280), 1e-5, "the second text");
  }
}

TEST(Softcaps, OfLogitsAreInTheLosses) {
  at::manual_seed(2);
  const auto leaf = [](at::IntArrayRef shape) { return at::randn(shape, at::kDouble).requires_grad_(true); };
  const at::Tensor x = leaf({6, 5}), w = leaf({9, 5}), y = leaf({6, 5}).detach(), u = leaf({9, 5}).detach();
  const at::Tensor targets = at::tensor({int64_t{1}, int64_t{8}, int64_t{-100}, int64_t{3}, int64_t{0}, int64_t{5}});
  const at::Tensor kept = at::tensor({int64_t{0}, int64_t{1}, int64_t{3}, int64_t{4}, int64_t{5}});
  const auto capped = [&](const at::Tensor& h, const at::Tensor& head, double c) {
    return ((h.matmul(head.t()) / c).tanh() * c).index_select(0, kept).log_softmax(1);
  };
  const auto gradients = [&](const at::Tensor& loss) {
    std::vector<at::Tensor> out;
    for (at::Tensor leaf : {x, w}) leaf.mutable_grad().reset();
    loss.backward();
    return std::vector{x.grad().clone(), w.grad().defined() ? w.grad().clone() : at::Tensor()};
  };
  const at::Tensor chosen = targets.index_select(0, kept).unsqueeze(1);
  const at::Tensor expected = -capped(x, w, 1.5).gather(1, chosen).sum();
  const auto wanted = gradients(expected);
  const at::Tensor loss = linear_cross_entropy(x, w, targets, 1.5);
  const auto got = gradients(loss);
  expect_close(loss, expected, 1e-12, "loss");
  expect_close(got[0], wanted[0], 1e-10, "hidden");
  expect_close(got[1], wanted[1], 1e-10, "weight");
  expect_close(gradients(linear_cross_entropy(x, w.detach(), targets, 1.5))[0], wanted[0], 1e-10, "of a frozen head");

  const at::Tensor q = capped(y, u, 2.0), divergence = (q.exp() * (q - capped(x, w, 1.5))).sum();
  const auto taught = gradients(divergence);
  const at::Tensor distilled = linear_distillation(x, w, y, u, targets, {}, 1.5, 2.0);
  const auto learned = gradients(distilled);
  expect_close(distilled, divergence, 1e-12, "divergence");
  expect_close(learned[0], taught[0], 1e-10, "hidden");
  expect_close(learned[1], taught[1], 1e-10, "weight");
}

}  // namespace
}  // namespace liger
