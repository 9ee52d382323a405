// Liger layers inside a whole model: against their definition written out token by token, and against themselves
// under padding, packing, splitting and decoding.

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "random_model.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using testing::expect_close;
using Documents = std::vector<std::vector<int64_t>>;

ModelConfig tiny(LigerConfig liger, int64_t layers = 2) {
  ModelConfig c;
  c.family = find_family("llama");
  c.vocab_size = 50;
  c.hidden_size = 24;
  c.intermediate_size = 32;
  c.num_hidden_layers = layers;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.max_position_embeddings = 512;
  c.hidden_act = "silu";
  c.initializer_range = 0.4;
  c.tie_word_embeddings = true;
  c.liger = liger;
  return c;
}

std::shared_ptr<CausalLM> make(const LigerConfig& liger, at::ScalarType type = at::kFloat, int64_t layers = 2) {
  at::manual_seed(7);
  return std::make_shared<CausalLM>(tiny(liger, layers), at::TensorOptions(type));
}

std::vector<int64_t> document(int64_t length, int64_t seed) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back((seed * 7919 + i * i * 31 + i * 17) % 50);
  return ids;
}

at::Tensor logits(CausalLM& model, const Sequences& tokens, DecodingState* state = nullptr) {
  at::NoGradGuard no_grad;
  return model.logits(model.hidden_states(tokens, state));
}

// One layer as the paper defines it, for one document, in plain loops: x [T, D] after the norm -> [T, D].
at::Tensor defined_attention(const at::Tensor& x, const std::map<std::string, at::Tensor>& w, const LigerConfig& c,
                             int64_t H, int64_t Hkv, int64_t D) {
  const int64_t T = x.size(0);
  const auto project = [&](const std::string& name) {
    const at::Tensor y = x.matmul(w.at(name).t());
    return w.contains(name + ".bias") ? y + w.at(name + ".bias") : y;
  };
  const at::Tensor q = project("q_proj"), k = project("k_proj"), v = project("v_proj");
  const auto turned = [&](const at::Tensor& y, int64_t t) {  // RoPE of one head's vector
    at::Tensor out = y.clone();
    std::vector<at::Tensor> first, second;
    for (int64_t i = 0; i < D / 2; ++i) {
      const float angle = static_cast<float>(t) * static_cast<float>(1.0f / std::pow(10000.0f, 2.0f * i / D));
      first.push_back(y[i] * std::cos(angle) - y[i + D / 2] * std::sin(angle));
      second.push_back(y[i + D / 2] * std::cos(angle) + y[i] * std::sin(angle));
    }
    return at::cat({at::stack(first), at::stack(second)});
  };
  std::vector<at::Tensor> rows;
  std::vector<at::Tensor> states(Hkv, at::zeros({D, D}, x.options()));
  for (int64_t t = 0; t < T; ++t) {
    std::vector<at::Tensor> heads;
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kv = h / (H / Hkv);
      const auto head = [&](const at::Tensor& y, int64_t token, int64_t index) {
        return y[token].narrow(0, index * D, D);
      };
      if (h % (H / Hkv) == 0) {
        const at::Tensor key = head(k, t, kv);
        const at::Tensor decay = (at::log_sigmoid(key) / c.gate_divisor).exp();
        states[kv] = decay.unsqueeze(1) * states[kv] + at::softmax(key, 0).unsqueeze(1) * head(v, t, kv).unsqueeze(0);
      }
      const at::Tensor linear = at::softmax(head(q, t, h), 0).matmul(states[kv]);
      std::vector<at::Tensor> scores, values;
      for (int64_t j = 0; j <= t; ++j) {
        if (j <= t - c.window && j >= c.sinks) continue;
        scores.push_back(turned(head(q, t, h), t).dot(turned(head(k, j, kv), j)) / std::sqrt(double(D)));
        values.push_back(head(v, j, kv));
      }
      const at::Tensor window = at::softmax(at::stack(scores), 0).matmul(at::stack(values));
      heads.push_back(c.mix * window + (1 - c.mix) * linear);
    }
    rows.push_back(at::cat(heads));
  }
  const at::Tensor out = at::stack(rows).matmul(w.at("o_proj").t());
  return w.contains("o_proj.bias") ? out + w.at("o_proj.bias") : out;
}

// The whole one-layer model from the same weights.
at::Tensor defined_logits(const CausalLM& model, const std::vector<int64_t>& ids) {
  std::map<std::string, at::Tensor> all, w;
  for (const auto& item : model.named_parameters()) all[item.key()] = item.value();
  for (const std::string name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    const std::string path = "model.layers.0.self_attn." + name;
    w[name] = all.at(path + ".weight");
    if (all.contains(path + ".bias")) w[name + ".bias"] = all.at(path + ".bias");
  }
  const auto norm = [&](const at::Tensor& x, const std::string& name) {
    return x / (x * x).mean({1}, true).add(model.config().norm_eps).sqrt() * all.at(name + ".weight");
  };
  const auto& c = model.config();
  const at::Tensor embedding = all.at("model.embed_tokens.weight");
  at::Tensor x = embedding.index_select(0, Sequences({ids}).ids());
  x = x + defined_attention(norm(x, "model.layers.0.input_layernorm"), w, *c.liger, c.num_attention_heads,
                            c.num_key_value_heads, c.head_dim);
  const at::Tensor y = norm(x, "model.layers.0.post_attention_layernorm");
  const auto mlp = [&](const char* name) { return all.at(cat("model.layers.0.mlp.", name, ".weight")).t(); };
  const at::Tensor gate = y.matmul(mlp("gate_proj"));
  x = x + (gate * gate.sigmoid() * y.matmul(mlp("up_proj"))).matmul(mlp("down_proj"));
  return norm(x, "model.norm").matmul(embedding.t());
}

class LigerLayer : public ::testing::TestWithParam<LigerConfig> {};

TEST_P(LigerLayer, EqualsItsDefinitionWithGradients) {
  const auto model = make(GetParam(), at::kDouble, 1);
  const auto ids = document(23, 1);
  const at::Tensor expected = defined_logits(*model, ids);
  const at::Tensor got = model->logits(model->hidden_states(Sequences({ids})));
  expect_close(got, expected, 1e-7, "logits");  // rotary angles are float32 in both, rounded differently

  at::manual_seed(8);
  const at::Tensor weight = at::randn(got.sizes(), got.options());
  const auto parameters = model->parameters();
  const auto gradient = [&](const at::Tensor& y) { return torch::autograd::grad({(y * weight).sum()}, parameters); };
  const auto got_gradients = gradient(got), expected_gradients = gradient(expected);
  for (size_t i = 0; i < parameters.size(); ++i)
    expect_close(got_gradients[i], expected_gradients[i], 1e-6, model->named_parameters().keys()[i].c_str());
}

TEST_P(LigerLayer, DecodingEqualsTheFullForward) {
  const auto model = make(GetParam());
  const Documents documents = {document(110, 1), document(100, 2), document(80, 3)};
  const at::Tensor whole = logits(*model, Sequences(documents));
  // Prefill of uneven length, then chunks of uneven length, then token by token.
  DecodingState state;
  std::vector<size_t> begin(documents.size(), 0);
  std::vector<std::vector<at::Tensor>> parts(documents.size());
  // The default window of 65 is left behind in a chunk by the first two, and by a single token by the third.
  const std::vector<std::vector<size_t>> steps = {{30, 3, 17}, {1, 9, 2}, {13, 1, 1}, {40, 60, 30}};
  const auto advance = [&](const std::vector<size_t>& lengths) {
    Documents part;
    for (size_t s = 0; s < documents.size(); ++s)
      part.emplace_back(documents[s].begin() + begin[s], documents[s].begin() + begin[s] + lengths[s]);
    const at::Tensor out = logits(*model, Sequences(part), &state);
    for (size_t s = 0, row = 0; s < documents.size(); row += lengths[s], begin[s] += lengths[s], ++s)
      parts[s].push_back(out.narrow(0, row, lengths[s]));
  };
  for (const auto& lengths : steps) advance(lengths);
  for (int i = 0; i < 20; ++i) advance({1, 1, 1});
  for (size_t s = 0, row = 0; s < documents.size(); row += documents[s].size(), ++s)
    expect_close(at::cat(parts[s]), whole.narrow(0, row, begin[s]), 1e-5, "logits");
}

TEST_P(LigerLayer, PaddingAndPackingChangeNothing) {
  const auto model = make(GetParam());
  const Documents documents = {document(70, 4), document(20, 5), document(1, 6)};
  const at::Tensor packed = logits(*model, Sequences(documents));
  int64_t row = 0;
  for (const auto& one : documents) {
    const int64_t length = one.size();
    const at::Tensor alone = logits(*model, Sequences({one}));
    expect_close(packed.narrow(0, row, length), alone, 1e-5, "packed");
    row += length;
    // The same tokens with padding left, right and inside, among other rows.
    at::Tensor ids = at::full({2, 80}, 9, at::kLong), mask = at::zeros({2, 80}, at::kLong);
    mask[0].fill_(1);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t column = 3 + i + (i > length / 2 ? 4 : 0);
      ids[1][column] = one[i];
      mask[1][column] = 1;
    }
    const Sequences padded = Sequences::from_padded(ids, mask);
    const at::Tensor out = padded.to_padded(logits(*model, padded))[1];
    expect_close(out.index_select(0, mask[1].nonzero().flatten()), alone, 1e-5, "padded");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, LigerLayer,
    ::testing::Values(LigerConfig{}, LigerConfig{.window = 5}, LigerConfig{.window = 1, .mix = 0.3},
                      LigerConfig{.window = 6, .sinks = 3, .mix = 0.7}, LigerConfig{.window = 4, .mix = 1.0},
                      LigerConfig{.mix = 0.0, .gate_divisor = 2.0}),
    [](const auto& info) {
      const LigerConfig& c = info.param;
      return cat("window", c.window, "_sinks", c.sinks, "_mix", int(c.mix * 100), "_div", int(c.gate_divisor));
    });

void copy_parameters(CausalLM& to, const CausalLM& from) {
  at::NoGradGuard no_grad;
  const auto source = from.named_parameters();
  for (auto& item : to.named_parameters()) item.value().copy_(source[item.key()]);
}

at::Tensor decoded_logits(CausalLM& model, const std::vector<int64_t>& ids) {
  DecodingState state;
  std::vector<at::Tensor> rows;
  for (const int64_t id : ids) rows.push_back(logits(model, Sequences(Documents{{id}}), &state));
  return at::cat(rows);
}

// A bias of -50 on every key, so that every log-decay is about -50: the definition is met, with gradients and decoding.
TEST(LigerLayer, LogDecaysOfMinusFiftyAreExact) {
  ModelConfig config = tiny({.gate_divisor = 1.0}, 1);
  config.attention_bias = true;
  at::manual_seed(7);
  CausalLM exact(config, at::kDouble), model(config, at::kFloat);
  {
    at::NoGradGuard no_grad;
    exact.named_parameters()["model.layers.0.self_attn.k_proj.bias"].fill_(-50.0);
  }
  copy_parameters(model, exact);
  copy_parameters(exact, model);  // rounded to float32
  const auto ids = document(40, 9);
  const at::Tensor expected = defined_logits(exact, ids);
  expect_close(logits(model, Sequences({ids})), expected, 1e-5, "logits");
  expect_close(decoded_logits(model, ids), expected, 1e-5, "decoded");
  const auto gradients = [](const CausalLM& of, const at::Tensor& y) {
    return torch::autograd::grad({y.square().mean()}, of.parameters());
  };
  const auto wanted = gradients(exact, expected);
  const auto got = gradients(model, model.logits(model.hidden_states(Sequences({ids}))));
  for (size_t i = 0; i < got.size(); ++i)
    expect_close(got[i], wanted[i], 1e-4, model.named_parameters().keys()[i].c_str());
}

// What differs between families and dtypes: scales, norms and activations; roundings.
TEST(LigerLayer, EveryFamilyAndDtypeDecodesAsItReads) {
  for (const char* family : {"llama", "gemma", "gpt_neox"}) {
    ModelConfig config = tiny({.window = 9, .sinks = 2});
    config.head_dim = 16;
    test::become(config, family);
    at::manual_seed(7);
    CausalLM exact(config, at::kDouble);
    for (const auto& [dtype, tolerance] :
         {std::pair{at::kFloat, 1e-5}, std::pair{at::kHalf, 2e-2}, std::pair{at::kBFloat16, 1e-1}}) {
      CausalLM model(config, dtype);
      copy_parameters(model, exact);
      copy_parameters(exact, model);
      const auto ids = document(70, 4);
      const at::Tensor expected = logits(exact, Sequences({ids}));
      const std::string what = cat(family, " ", dtype);
      expect_close(logits(model, Sequences({ids})), expected, tolerance, what.c_str());
      expect_close(decoded_logits(model, ids), expected, tolerance, (what + " decoded").c_str());
    }
  }
}

TEST(DecodingState, ForksAndStaysConstantInSize) {
  const auto model = make({.window = 10, .sinks = 2});
  DecodingState state;
  logits(*model, Sequences({document(40, 1), document(25, 2)}), &state);
  const int64_t bytes = state.bytes();
  EXPECT_GT(bytes, 0);
  at::Tensor rows = at::zeros({3}, at::kLong);
  rows[2] = 1;
  DecodingState fork = state.select(rows);
  const at::Tensor out = logits(*model, Sequences({{5, 6}, {7}, {8, 9, 10}}), &fork);
  const at::Tensor first = logits(*model, Sequences({{5, 6}, {8, 9, 10}}), &state);
  expect_close(out.narrow(0, 0, 2), first.narrow(0, 0, 2), 1e-5, "first");
  expect_close(out.narrow(0, 3, 3), first.narrow(0, 2, 3), 1e-5, "last");
  EXPECT_EQ(state.bytes(), bytes);
  EXPECT_EQ(state.seen, (std::vector<int64_t>{42, 28}));
}

}  // namespace
}  // namespace liger
