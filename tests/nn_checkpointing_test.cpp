// Activation checkpointing: the same numbers for less memory, and what a backward pass does not do.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <map>
#include <set>

#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "liger/ops/linear_cross_entropy.h"
#include "random_model.h"
#include "torch_memory.h"

namespace liger {
namespace {

ModelConfig config_of(bool liger, int64_t layers = 3) {
  ModelConfig config = test::random_config(50);
  config.num_hidden_layers = layers;
  if (liger) config.liger = test::short_window();
  return config;
}

// Documents of several lengths one after the other, the second micro-batch another one.
Sequences packed(int64_t seed) {
  std::vector<std::vector<int64_t>> documents;
  for (const int64_t length : {int64_t{7}, int64_t{30}, int64_t{1}, 11 + seed}) {
    documents.emplace_back();
    for (int64_t i = 0; i < length; ++i) documents.back().push_back((seed * 79 + length * 13 + i * i * 31) % 50);
  }
  return Sequences(documents);
}

at::Tensor loss_of(CausalLM& model, const Sequences& tokens) {
  return linear_cross_entropy(model.hidden_states(tokens), model.head_weight(), tokens.ids().roll(-1));
}

struct Update {
  std::vector<double> losses;
  std::map<std::string, at::Tensor> gradients;
  at::Tensor random_after;
};

// Two micro-batches, so that gradients add up and random numbers go on from one to the other.
Update update(CausalLM& model, bool checkpoints) {
  model.checkpoint_layers(checkpoints);
  model.train();
  model.zero_grad();
  at::manual_seed(5);
  Update out;
  for (const int64_t seed : {1, 2}) {
    const at::Tensor loss = loss_of(model, packed(seed));
    out.losses.push_back(loss.item<double>());
    loss.div(3).backward();
  }
  for (const auto& item : model.named_parameters())
    if (item.value().grad().defined()) out.gradients[item.key()] = item.value().grad().clone();
  out.random_after = at::detail::getDefaultCPUGenerator().get_state();
  return out;
}

struct Case {
  const char* name;
  bool liger, lora;
  double dropout = 0;
  bool dora = false;
  std::vector<int64_t> layers = {};
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class Checkpointing : public testing::TestWithParam<std::tuple<Case, at::ScalarType>> {};

TEST_P(Checkpointing, LossAndGradientsAreTheSameToTheBit) {
  const auto& [c, dtype] = GetParam();
  const auto model = test::random_model(config_of(c.liger), 3, dtype);
  if (c.lora) {
    const ModuleSelector all = {.names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
    add_lora(*model, {.r = 4, .dropout = c.dropout, .targets = all, .layers = c.layers, .dora = c.dora});
    const at::NoGradGuard no_grad;
    for (auto& item : model->named_parameters())
      if (item.key().ends_with("lora_B")) item.value().normal_(0, 0.1);
  } else {
    for (at::Tensor& parameter : model->parameters()) parameter.set_requires_grad(true);
  }
  const Update plain = update(*model, false), again = update(*model, true);
  EXPECT_EQ(plain.losses, again.losses);
  ASSERT_EQ(plain.gradients.size(), again.gradients.size());
  for (const auto& [name, gradient] : plain.gradients) {
    ASSERT_TRUE(again.gradients.contains(name)) << name;
    EXPECT_TRUE(gradient.equal(again.gradients.at(name))) << name;
    EXPECT_GT(gradient.abs().max().item<double>(), 0) << name;
  }
  for (const auto& item : model->named_parameters())
    EXPECT_EQ(plain.gradients.contains(item.key()), item.value().requires_grad()) << item.key();
  EXPECT_TRUE(plain.random_after.equal(again.random_after));
}

INSTANTIATE_TEST_SUITE_P(
    All, Checkpointing,
    testing::Combine(testing::Values(Case{"liger_lora", true, true}, Case{"softmax_lora", false, true},
                                     Case{"liger_lora_dropout", true, true, 0.3},
                                     Case{"softmax_lora_dropout", false, true, 0.3},
                                     Case{"liger_dora_dropout", true, true, 0.3, true},
                                     Case{"liger_lora_of_layer_1", true, true, 0.3, false, {1}},
                                     Case{"liger_full", true, false}, Case{"softmax_full", false, false}),
                     testing::Values(at::kFloat, at::kBFloat16)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) +
             (std::get<1>(info.param) == at::kFloat ? "_float32" : "_bfloat16");
    });

TEST(Checkpointing, KeepsOneRowALayer) {
  const int64_t layers = 6, N = 1024;
  const auto kept = [&](bool checkpoints) {
    const auto model = test::random_model(config_of(true, layers));
    add_lora(*model, {});
    model->checkpoint_layers(checkpoints);
    model->train();
    const at::Tensor ids = at::randint(50, {2, N / 2}, at::kLong);
    const Sequences tokens = Sequences::from_padded(ids);
    const test::TorchMemory memory;
    const at::Tensor hidden = model->hidden_states(tokens);
    return memory.live();
  };
  const int64_t row = N * 32 * static_cast<int64_t>(sizeof(float));
  EXPECT_GT(kept(false), layers * 4 * row);
  // Beside what each layer read: the final norm's input and output, angles, random states.
  EXPECT_LT(kept(true), (layers + 3) * row);
}

TEST(Checkpointing, WithoutGradientsNothingIsKeptOrDrawn) {
  const auto model = test::random_model(config_of(true));
  add_lora(*model, {});
  const Sequences tokens = packed(1);
  const at::NoGradGuard no_grad;
  const at::Tensor plain = model->hidden_states(tokens);
  model->checkpoint_layers(true);
  const at::Tensor before = at::detail::getDefaultCPUGenerator().get_state(), same = model->hidden_states(tokens);
  EXPECT_TRUE(plain.equal(same));
  EXPECT_FALSE(same.grad_fn());
  EXPECT_TRUE(before.equal(at::detail::getDefaultCPUGenerator().get_state()));
  DecodingState state;
  EXPECT_TRUE(model->hidden_states(tokens, &state).equal(plain)) << "decoding";
}

// The nodes of a graph by name, and the leaves it ends in.
struct Graph {
  std::map<std::string, int> nodes;
  std::set<const void*> leaves;

  explicit Graph(const at::Tensor& root) {
    std::set<torch::autograd::Node*> seen;
    std::vector<torch::autograd::Node*> todo = {root.grad_fn().get()};
    while (!todo.empty()) {
      torch::autograd::Node* const node = todo.back();
      todo.pop_back();
      if (node == nullptr || !seen.insert(node).second) continue;
      ++nodes[node->name()];
      if (const auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node))
        leaves.insert(leaf->variable.unsafeGetTensorImpl());
      for (const auto& edge : node->next_edges()) todo.push_back(edge.function.get());
    }
  }
};

// With an adapter in the last layer the layers below have no graph: it is as large for seven layers as for two. The
// leaves are what is trained, so nothing is multiplied for a frozen weight.
TEST(BackwardGraph, EndsAtTheFirstTrainedLayer) {
  const auto graph = [](int64_t layers, bool checkpoints, std::vector<int64_t> adapted) {
    const auto model = test::random_model(config_of(true, layers));
    add_lora(*model, {.layers = std::move(adapted)});
    model->checkpoint_layers(checkpoints);
    model->train();
    Graph found(loss_of(*model, packed(1)));
    std::set<const void*> trained;
    for (const at::Tensor& parameter : model->parameters())
      if (parameter.requires_grad()) trained.insert(parameter.unsafeGetTensorImpl());
    EXPECT_EQ(found.leaves, trained);
    return found.nodes;
  };
  for (const bool checkpoints : {false, true}) {
    EXPECT_EQ(graph(7, checkpoints, {6}), graph(2, checkpoints, {1})) << checkpoints;
    EXPECT_NE(graph(7, checkpoints, {5}), graph(7, checkpoints, {6})) << checkpoints;
  }
}

// What the graph does not show: a frozen weight whose gradient is formed and thrown away keeps its product's input.
TEST(BackwardGraph, FrozenProductsKeepNoInput) {
  const int64_t N = 128, D = 32, I = 48;
  const auto model = test::random_model(config_of(true, 1));
  add_lora(*model, {});
  model->train();
  const Sequences tokens = Sequences::from_padded(at::randint(50, {1, N}, at::kLong));
  const test::TorchMemory memory;
  const at::Tensor hidden = model->hidden_states(tokens);
  // norm(x), q (D), k and v (D / 2 each), x after attention; gates and ups; x after all, and what comes out; beside
  // them states and angles. Not: x, which has no gradient, and the inputs of o_proj (D), gate_proj (D) and down_proj
  // (I).
  const int64_t floats = memory.live() / static_cast<int64_t>(sizeof(float)) / N;
  EXPECT_GE(floats, 6 * D + 2 * I);
  EXPECT_LT(floats, 7 * D + 2 * I);
}

}  // namespace
}  // namespace liger
