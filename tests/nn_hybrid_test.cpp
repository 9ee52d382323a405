// Models of which some layers stay softmax attention and the others are Liger layers.

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "random_model.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using testing::expect_close;
using Documents = std::vector<std::vector<int64_t>>;

ModelConfig hybrid(std::vector<int64_t> softmax_layers, const std::string& structure = "gla") {
  return test::random_config(
      50, LigerConfig{.recurrence = structure, .window = 5, .sinks = 2, .softmax_layers = std::move(softmax_layers)});
}

std::vector<int64_t> document(int64_t length, int64_t seed) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back((seed * 7919 + i * i * 31 + i * 17) % 50);
  return ids;
}

at::Tensor logits(CausalLM& model, const Documents& documents, DecodingState* state = nullptr) {
  at::NoGradGuard no_grad;
  return model.logits(model.hidden_states(Sequences(documents), state));
}

// The part of each document from `begin` to `end`.
Documents part(const Documents& documents, const std::vector<size_t>& begin, const std::vector<size_t>& end) {
  Documents out;
  for (size_t s = 0; s < documents.size(); ++s)
    out.emplace_back(documents[s].begin() + begin[s], documents[s].begin() + end[s]);
  return out;
}

TEST(Hybrid, OnlyTheLayersNamedAreSoftmaxAttention) {
  const Documents documents = {document(30, 1)};
  // All weights are the same: what differs is the layers' kind.
  const at::Tensor softmax = logits(*test::random_model(test::random_config(50)), documents);
  const at::Tensor liger = logits(*test::random_model(hybrid({})), documents);
  const at::Tensor first = logits(*test::random_model(hybrid({0})), documents);
  const at::Tensor second = logits(*test::random_model(hybrid({1})), documents);
  const auto differ = [](const at::Tensor& a, const at::Tensor& b) {
    return (a - b).abs().max().item<double>() > 1e-3;
  };
  EXPECT_TRUE(differ(softmax, first));
  EXPECT_TRUE(differ(softmax, second));
  EXPECT_TRUE(differ(liger, first));
  EXPECT_TRUE(differ(liger, second));
  EXPECT_TRUE(differ(first, second));
  expect_close(logits(*test::random_model(hybrid({0, 1})), documents), softmax, 1e-6, "all layers");
}

TEST(Hybrid, DecodingEqualsTheFullForward) {
  for (const auto& [kept, structure] : {std::pair{0, "gla"}, std::pair{1, "lightning"}, std::pair{1, "gsa"},
                                        std::pair{0, "kda"}, std::pair{1, "swa"}}) {
    SCOPED_TRACE(structure);
    const auto model = test::random_model(hybrid({kept}, structure));
    const Documents documents = {document(40, 1), document(33, 2)};
    const at::Tensor whole = logits(*model, documents);
    DecodingState state;
    std::vector<std::vector<at::Tensor>> parts(2);
    std::vector<size_t> begin = {0, 0};
    const auto advance = [&](std::vector<size_t> end) {
      const at::Tensor out = logits(*model, part(documents, begin, end), &state);
      for (size_t s = 0, row = 0; s < 2; row += end[s] - begin[s], ++s)
        parts[s].push_back(out.narrow(0, row, end[s] - begin[s]));
      begin = end;
    };
    advance({12, 3});
    advance({13, 12});
    while (begin[0] < 34) advance({begin[0] + 1, begin[1] + 1});
    expect_close(at::cat(parts[0]), whole.narrow(0, 0, begin[0]), 1e-5, "first");
    expect_close(at::cat(parts[1]), whole.narrow(0, 40, begin[1]), 1e-5, "second");
  }
}

// One layer does nothing and the other has the same weights wherever it is: only its place tells two models apart.
TEST(Hybrid, LayersKnowTheirPlace) {
  const auto with_active_layer = [](int active, const char* structure) {
    ModelConfig config = hybrid({}, structure);
    config.liger->window = config.liger->sinks = 0;
    const auto first = test::random_model(config), model = test::random_model(config);
    at::NoGradGuard no_grad;
    const auto source = first->named_parameters();
    auto target = model->named_parameters();
    for (const auto& item : source) {
      const std::string layer = "model.layers.0.";
      if (!item.key().starts_with(layer)) continue;
      const std::string name = item.key().substr(layer.size());
      target[cat("model.layers.", active, ".", name)].copy_(item.value());
      const bool writes = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
      if (writes) target[cat("model.layers.", 1 - active, ".", name)].zero_();
    }
    return logits(*model, {document(30, 1)});
  };
  expect_close(with_active_layer(1, "retnet"), with_active_layer(0, "retnet"), 1e-6, "retnet");
  EXPECT_GT(testing::relative_error(with_active_layer(1, "lightning"), with_active_layer(0, "lightning")), 1e-3);
}

TEST(Hybrid, ASelectedStateGoesOnAsTheSequenceWould) {
  const auto model = test::random_model(hybrid({1}));
  const Documents documents = {document(20, 1), document(17, 2)};
  DecodingState state;
  logits(*model, documents, &state);
  at::NoGradGuard no_grad;
  DecodingState chosen = state.select(at::tensor({1, 0, 1}, at::kLong));
  EXPECT_EQ(chosen.seen, (std::vector<int64_t>{17, 20, 17}));
  const at::Tensor forked = logits(*model, {{3}, {4}, {5}}, &chosen);
  for (const auto& [row, document, token] : {std::tuple{0, 1, 3}, std::tuple{1, 0, 4}, std::tuple{2, 1, 5}}) {
    std::vector<int64_t> longer = documents[document];
    longer.push_back(token);
    expect_close(forked[row], logits(*model, {longer})[-1], 1e-5, "forked");
  }
  const at::Tensor original = logits(*model, {{6}, {7}}, &state);  // the fork took nothing away
  std::vector<int64_t> longer = documents[0];
  longer.push_back(6);
  expect_close(original[0], logits(*model, {longer})[-1], 1e-5, "original");
}

TEST(Hybrid, OnlySoftmaxLayersRememberMoreOfALongerText) {
  const auto bytes = [](const std::vector<int64_t>& kept, int64_t length) {
    DecodingState state;
    logits(*test::random_model(hybrid(kept)), {document(length, 1)}, &state);
    return state.bytes();
  };
  EXPECT_EQ(bytes({}, 50), bytes({}, 20));
  constexpr int64_t kPerToken = 2 /* keys and values */ * 2 * 8 /* heads and their width */ * 4 /* bytes */;
  EXPECT_EQ(bytes({0}, 50) - bytes({0}, 20), 30 * kPerToken);
  EXPECT_EQ(bytes({0, 1}, 50) - bytes({0, 1}, 20), 2 * 30 * kPerToken);
}

}  // namespace
}  // namespace liger
