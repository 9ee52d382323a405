// Decoding in compiled code against the full forward pass; conversations on disk.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <fstream>

#include "family_traits.h"
#include "io_test_util.h"
#include "liger/core/checkpoint.h"
#include "liger/core/structure.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "liger/nn/step_decoder.h"
#include "tensor_testing.h"

namespace {
std::atomic<int64_t> allocations = 0;
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define LIGER_COUNTS_ALLOCATIONS
// The program's own allocator comes before the C library's, LibTorch's calls included.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) {
  ++allocations;
  return __libc_realloc(old, size);
}
int posix_memalign(void** out, size_t alignment, size_t size) {
  ++allocations;
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : 12;
}
void* aligned_alloc(size_t alignment, size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
}
#endif

namespace liger {
namespace {

using testing::expect_close;

struct Case {
  std::string name;
  std::optional<LigerConfig> liger;
  const char* family = "llama";
  bool lora = false, bias = false, dora = false;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

ModelConfig tiny(const Case& c) {
  ModelConfig config;
  config.family = find_family(c.family);
  config.vocab_size = 50;
  config.hidden_size = 24;
  config.intermediate_size = 36;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 10;
  config.max_position_embeddings = 512;
  config.initializer_range = 0.3;
  test::become(config, c.family);
  config.logit_softcap = 0;
  if (c.bias) config.attention_bias = config.mlp_bias = true;
  config.tie_word_embeddings = !c.bias;
  config.liger = c.liger;
  return config;
}

std::shared_ptr<CausalLM> make(const Case& c, at::ScalarType type) {
  at::manual_seed(3);
  auto model = std::make_shared<CausalLM>(tiny(c), at::TensorOptions(type));
  at::NoGradGuard no_grad;
  for (auto& item : model->named_parameters())
    if (item.key().ends_with("bias")) item.value().normal_(0, 0.2);
  if (c.lora) {
    LoraConfig lora;
    lora.r = 3;
    lora.alpha = 6;
    lora.targets.names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"};
    lora.rank_pattern = {{"k_proj", 5}};
    lora.dora = c.dora;
    add_lora(*model, lora);
    for (auto& item : model->named_parameters())
      if (item.key().ends_with("lora_B")) item.value().normal_(0, 0.2);
  }
  model->eval();
  return model;
}

std::vector<int64_t> document(int64_t length, int64_t seed) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back((seed * 7919 + i * i * 31 + i * 17) % 50);
  return ids;
}

at::Tensor full(CausalLM& model, const std::vector<int64_t>& ids) {
  return model.logits(model.hidden_states(Sequences({ids}))).to(at::kFloat);
}

std::vector<Case> cases() {
  std::vector<Case> out = {{"softmax", {}},
                           {"softmax_bias", {}, "llama", false, true},
                           {"lora", LigerConfig{.window = 7}, "llama", true},
                           {"dora", LigerConfig{.window = 7}, "llama", true, true, true},
                           {"bias", LigerConfig{.window = 7}, "llama", false, true},
                           {"gemma", LigerConfig{.window = 7, .sinks = 2}, "gemma"},
                           {"gemma_softmax", {}, "gemma", true},
                           {"mistral", {}, "mistral"},
                           {"qwen2", {}, "qwen2", true},
                           {"qwen3", {}, "qwen3", true},
                           {"qwen3_liger", LigerConfig{.window = 7}, "qwen3"},
                           {"gemma3", {}, "gemma3_text"},
                           {"gemma3_liger", LigerConfig{.window = 7, .sinks = 2}, "gemma3_text"},
                           {"no_window", LigerConfig{.window = 0}},
                           {"hybrid", LigerConfig{.window = 9, .softmax_layers = {1}}}};
  for (const Structure& structure : structures()) {
    LigerConfig liger{.recurrence = structure.name, .window = 9, .sinks = 2, .mix = 0.4};
    std::string name = structure.name;
    std::replace(name.begin(), name.end(), '-', '_');
    out.push_back({name, liger});
  }
  return out;
}

class Steps : public ::testing::TestWithParam<Case> {};

// Activations are float32 in bfloat16 models too: what they give is what float32 gives with these weights.
TEST_P(Steps, LoseNothingToBFloat16) {
  at::NoGradGuard no_grad;
  const auto model = make(GetParam(), at::kBFloat16), exact = make(GetParam(), at::kFloat);
  const auto rounded = model->named_parameters();
  for (auto& item : exact->named_parameters()) item.value().copy_(rounded[item.key()]);
  const auto ids = document(30, 1);
  DecodingState state;
  StepDecoder steps(*model, 1);
  std::vector<at::Tensor> rows;
  for (const int64_t& id : ids) rows.push_back(steps.step(std::span(&id, 1), state).clone());
  const bool cache = model->config().has_softmax_layers();        // which holds keys and values in bfloat16
  const bool scaled = model->config().family->scales_embeddings;  // by a factor that is rounded to bfloat16
  expect_close(at::cat(rows), full(*exact, ids), cache || scaled ? 2e-2 : 1e-5, "logits");
}

TEST_P(Steps, EqualTheFullForward) {
  at::NoGradGuard no_grad;
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 8e-2}}) {
    const auto model = make(GetParam(), type);
    ASSERT_TRUE(StepDecoder::supports(*model));
    for (const int64_t sequences : {1, 3}) {
      std::vector<std::vector<int64_t>> documents, prompts;
      for (int64_t s = 0; s < sequences; ++s) {
        documents.push_back(document(40, s));
        prompts.emplace_back(documents[s].begin(), documents[s].begin() + 1 + 6 * s);  // of uneven length
      }
      DecodingState state;
      model->hidden_states(Sequences(prompts), &state);
      StepDecoder steps(*model, sequences);
      std::vector<std::vector<at::Tensor>> rows(sequences);
      for (int64_t t = 0; t < 25; ++t) {
        std::vector<int64_t> ids;
        for (int64_t s = 0; s < sequences; ++s) ids.push_back(documents[s][prompts[s].size() + t]);
        const at::Tensor& logits = steps.step(ids, state);
        for (int64_t s = 0; s < sequences; ++s) rows[s].push_back(logits.narrow(0, s, 1).clone());
      }
      for (int64_t s = 0; s < sequences; ++s) {
        const at::Tensor expected = full(*model, documents[s]).narrow(0, std::ssize(prompts[s]), 25);
        expect_close(at::cat(rows[s]), expected, tolerance, "logits");
      }
      // And the full forward goes on from what the steps left.
      if (sequences > 1) continue;
      const std::vector<int64_t> rest = {documents[0][26], documents[0][27]};
      const at::Tensor next = model->logits(model->hidden_states(Sequences({rest}), &state));
      expect_close(next.to(at::kFloat), full(*model, documents[0]).narrow(0, 26, 2), tolerance, "after");
    }
  }
}

TEST_P(Steps, AllocateNothing) {
#ifndef LIGER_COUNTS_ALLOCATIONS
  GTEST_SKIP() << "allocations are counted with glibc, without the address sanitizer";
#endif
  at::NoGradGuard no_grad;
  const auto model = make(GetParam(), at::kBFloat16);
  DecodingState state;
  StepDecoder steps(*model, 1);
  const std::vector<int64_t> ids = document(40, 1);
  for (int64_t t = 0; t < 3; ++t) steps.step(std::span(&ids[t], 1), state);
  const int64_t before = allocations;
  for (int64_t t = 3; t < 40; ++t) steps.step(std::span(&ids[t], 1), state);
  EXPECT_EQ(allocations - before, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Steps, ::testing::ValuesIn(cases()), [](const auto& info) { return info.param.name; });

TEST(Steps, RefuseWhatTheyCannot) {
  at::NoGradGuard no_grad;
  const Case plain{"", LigerConfig{}};
  EXPECT_FALSE(StepDecoder::supports(*make(plain, at::kDouble)));
  EXPECT_THROW(StepDecoder(*make(plain, at::kDouble), 1), Error);
  EXPECT_THROW(StepDecoder(*make(plain, at::kFloat), 5), Error);
  const auto model = make(plain, at::kFloat);
  StepDecoder steps(*model, 1);
  DecodingState state;
  const std::vector<int64_t> outside = {50}, two = {1, 2};
  EXPECT_THROW(steps.step(outside, state), Error);
  EXPECT_THROW(steps.step(two, state), Error);
}

TEST(Conversations, GoOnAsIfNeverInterrupted) {
  at::NoGradGuard no_grad;
  const test::TempDir folder;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const auto model = make(c, at::kFloat);
    const auto ids = document(40, 2);
    Conversation saved;
    const std::vector<int64_t> first(ids.begin(), ids.begin() + 25), rest(ids.begin() + 25, ids.end());
    model->hidden_states(Sequences({first}), &saved.state);
    saved.next = rest[0];
    save_conversation(folder / "state.safetensors", saved, *model);
    Conversation loaded = load_conversation(folder / "state.safetensors", *model);
    EXPECT_EQ(loaded.next, saved.next);
    const at::Tensor out = model->logits(model->hidden_states(Sequences({rest}), &loaded.state));
    expect_close(out, full(*model, ids).narrow(0, 25, 15), 1e-5, "logits");
  }
}

TEST(Conversations, AreOfConstantSizeAndOfOneModel) {
  at::NoGradGuard no_grad;
  const test::TempDir folder;
  const Case c{"", LigerConfig{.window = 9, .sinks = 2}};
  const auto model = make(c, at::kFloat);
  uintmax_t size = 0;
  for (const int64_t tokens : {3, 200}) {
    Conversation conversation;
    model->hidden_states(Sequences({document(tokens, 1)}), &conversation.state);
    save_conversation(folder / "state.safetensors", conversation, *model);
    const uintmax_t now = std::filesystem::file_size(folder / "state.safetensors");
    EXPECT_TRUE(size == 0 || now == size) << now << " and " << size;
    size = now;
  }
  EXPECT_THROW(load_conversation(folder / "state.safetensors", *make(c, at::kBFloat16)), Error);
  const Case wider{"", LigerConfig{.window = 8, .sinks = 2}}, adapted{"", c.liger, "llama", true};
  EXPECT_THROW(load_conversation(folder / "state.safetensors", *make(wider, at::kFloat)), Error);
  EXPECT_THROW(load_conversation(folder / "state.safetensors", *make(adapted, at::kFloat)), Error);
  // Damaged: as many values of a narrower type.
  const SafetensorsFile whole(folder / "state.safetensors");
  std::map<std::string, at::Tensor> tensors = load_tensors(whole.path());
  for (auto& [name, tensor] : tensors)
    if (name.ends_with("keys")) tensor = tensor.to(at::kByte);
  save_tensors(folder / "damaged.safetensors", tensors, whole.metadata());
  EXPECT_THROW(load_conversation(folder / "damaged.safetensors", *model), Error);
  model->save_weights(folder / "weights.safetensors");
  EXPECT_THROW(load_conversation(folder / "weights.safetensors", *model), Error);
}

}  // namespace
}  // namespace liger
