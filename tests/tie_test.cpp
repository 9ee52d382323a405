// Which layers share, what shared layers begin as, what adapters hold, and how large it all is.

#include "liger/convert/tie.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "convert/low_rank.h"
#include "io_test_util.h"
#include "liger/models/family.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using Layers = std::vector<int64_t>;
using testing::expect_close;

Layers slots(Sharing sharing, int64_t loops, int64_t depths) {
  const Recursion recursion{.loops = loops, .sharing = sharing};
  Layers out;
  for (int64_t depth = 0; depth < depths; ++depth) out.push_back(recursion.slot(depth, depths));
  return out;
}

TEST(Recursion, WhichSlotRunsAtADepth) {
  EXPECT_EQ(slots(Sharing::kCycle, 2, 6), (Layers{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(slots(Sharing::kCycle, 3, 6), (Layers{0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(slots(Sharing::kSequence, 2, 6), (Layers{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(slots(Sharing::kMiddleCycle, 2, 6), (Layers{0, 1, 2, 1, 2, 3}));
  EXPECT_EQ(slots(Sharing::kMiddleSequence, 2, 6), (Layers{0, 1, 1, 2, 2, 3}));
  EXPECT_EQ(slots(Sharing::kCycle, 4, 4), (Layers{0, 0, 0, 0}));
}

TEST(Recursion, PeftWritesItAsRanges) {
  using Ranges = std::vector<std::pair<int64_t, int64_t>>;
  const auto ranges = [](Sharing sharing, int64_t loops, int64_t depths) {
    return Recursion{.loops = loops, .sharing = sharing}.replication(depths);
  };
  EXPECT_EQ(ranges(Sharing::kCycle, 2, 6), (Ranges{{0, 3}, {0, 3}}));
  EXPECT_EQ(ranges(Sharing::kSequence, 2, 4), (Ranges{{0, 1}, {0, 2}, {1, 2}}));
  EXPECT_EQ(ranges(Sharing::kMiddleCycle, 2, 6), (Ranges{{0, 3}, {1, 4}}));
}

TEST(Recursion, LoopsThatDoNotDivideAreToldWhatWould) {
  const auto reason = [](Sharing sharing, int64_t loops, int64_t depths) {
    return Recursion{.loops = loops, .sharing = sharing}.refuses(depths);
  };
  EXPECT_EQ(reason(Sharing::kCycle, 2, 6), "");
  EXPECT_EQ(reason(Sharing::kCycle, 4, 18), "loops: 4 do not divide 18 layers; expected one of 2, 3, 6, 9, 18");
  EXPECT_EQ(reason(Sharing::kMiddleCycle, 3, 22),
            "loops: 3 do not divide 20 layers between the first and the last; expected one of 2, 4, 5, 10, 20");
  EXPECT_EQ(reason(Sharing::kCycle, 1, 6), "loops: expected 2 or more, got 1");
  EXPECT_EQ(reason(Sharing::kCycle, 2, 1), "loops: 2 do not divide 1 layers");
}

ModelConfig shape(const char* family, int64_t layers, int64_t hidden, int64_t ffn, int64_t heads, int64_t kv,
                  int64_t head_dim, int64_t vocab, bool tied) {
  ModelConfig c;
  c.family = find_family(family);
  c.num_hidden_layers = layers;
  c.hidden_size = hidden;
  c.intermediate_size = ffn;
  c.num_attention_heads = heads;
  c.num_key_value_heads = kv;
  c.head_dim = head_dim;
  c.vocab_size = vocab;
  c.tie_word_embeddings = tied;
  return c;
}
const ModelConfig kGemma2B = shape("gemma", 18, 2048, 16384, 8, 1, 256, 256000, true);
const ModelConfig kPythia1B = [] {
  ModelConfig c = shape("gpt_neox", 16, 2048, 8192, 8, 8, 256, 50304, false);
  c.attention_bias = c.mlp_bias = true;
  return c;
}();
const ModelConfig kTinyLlama = shape("llama", 22, 2048, 5632, 32, 4, 64, 32000, false);

Layers begins(TieInit init, int64_t layers, int64_t loops, Sharing sharing = Sharing::kCycle, bool from_one = true) {
  TieOptions options{.recursion = {.loops = loops, .sharing = sharing}};
  options.init = init;
  ModelConfig model = kGemma2B;
  model.num_hidden_layers = layers;
  Layers out;
  for (const Layers& sources : slot_sources(options, tied_layers(options, model))) {
    EXPECT_EQ(sources.size(), 1);
    out.push_back(sources.at(0) + from_one);
  }
  return out;
}

// Figure 2 of the paper, and what its author's code gives for the models of its tables (layers counted from 1).
TEST(Tie, StepwiseTakesTheLayersOfThePaper) {
  const TieInit stepwise = TieInit::kStepwise;
  EXPECT_EQ(begins(stepwise, 6, 2), (Layers{1, 3, 6}));
  EXPECT_EQ(begins(stepwise, 18, 2), (Layers{1, 3, 5, 7, 9, 12, 14, 16, 18}));
  EXPECT_EQ(begins(stepwise, 18, 3), (Layers{1, 4, 8, 11, 15, 18}));
  EXPECT_EQ(begins(stepwise, 22, 2), (Layers{1, 3, 5, 7, 9, 11, 14, 16, 18, 20, 22}));
  EXPECT_EQ(begins(stepwise, 16, 2), (Layers{1, 3, 5, 7, 10, 12, 14, 16}));
  EXPECT_EQ(begins(stepwise, 16, 4), (Layers{1, 6, 11, 16}));
  EXPECT_EQ(begins(stepwise, 24, 3), (Layers{1, 4, 8, 11, 14, 17, 21, 24}));
}

TEST(Tie, OtherBeginnings) {
  EXPECT_EQ(begins(TieInit::kLower, 6, 2, Sharing::kCycle, false), (Layers{0, 1, 2}));
  EXPECT_EQ(begins(TieInit::kUpper, 6, 2, Sharing::kCycle, false), (Layers{3, 4, 5}));
  EXPECT_EQ(begins(TieInit::kLower, 6, 2, Sharing::kMiddleCycle, false), (Layers{0, 1, 2, 5}));
  EXPECT_EQ(begins(TieInit::kUpper, 6, 2, Sharing::kMiddleCycle, false), (Layers{0, 3, 4, 5}));
  EXPECT_EQ(begins(TieInit::kStepwise, 6, 2, Sharing::kMiddleCycle, false), (Layers{0, 1, 4, 5}));
  TieOptions options{.recursion = {.loops = 2}};
  ModelConfig model = kGemma2B;
  model.num_hidden_layers = 4;
  EXPECT_EQ(slot_sources(options, {0, 1, 2, 3}), (std::vector<Layers>{{0, 2}, {1, 3}}));  // average, as rank > 0
  options.recursion.sharing = Sharing::kSequence;
  EXPECT_EQ(slot_sources(options, {0, 1, 2, 3}), (std::vector<Layers>{{0, 1}, {2, 3}}));
  options.init = TieInit::kRandom;
  EXPECT_EQ(slot_sources(options, {0, 1, 2, 3}), (std::vector<Layers>{{}, {}}));
}

TEST(Tie, LayersAreDroppedAsThePapersAuthorDoes) {
  TieOptions options{.recursion = {.loops = 3}, .drop_layers = true};
  const Layers kept = tied_layers(options, kTinyLlama);
  ASSERT_EQ(kept.size(), 21);
  EXPECT_EQ(std::count(kept.begin(), kept.end(), 11), 0);  // the 12th
  ModelConfig model = kTinyLlama;
  model.num_hidden_layers = 16;
  const Layers of_16 = tied_layers(options, model);
  ASSERT_EQ(of_16.size(), 15);
  EXPECT_EQ(std::count(of_16.begin(), of_16.end(), 7), 0);  // the 8th
  options.drop_layers = false;
  EXPECT_EQ(std::string(test::error_of([&] { tied_layers(options, kTinyLlama); }).what()),
            "loops: 3 do not divide 22 layers; expected one of 2, 11, 22, or --drop-layers to leave some out");
}

// Table I.2 of the paper, billions without embeddings, whose third digits were cut off or rounded.
TEST(Tie, SizesAreThoseOfThePaper) {
  const auto billions = [](const ModelConfig& model, int64_t loops, int64_t rank) {
    TieOptions options{.recursion = {.loops = loops}};
    options.rank = rank;
    const TiedSizes sizes = tied_sizes(options, model);
    return static_cast<double>(sizes.base - sizes.embedding + sizes.adapters) / 1e9;
  };
  const std::pair<int64_t, double> gemma2[] = {{0, 0.99}, {64, 1.07}, {128, 1.15}, {256, 1.30}, {512, 1.60}};
  for (const auto& [rank, expected] : gemma2) EXPECT_NEAR(billions(kGemma2B, 2, rank), expected, 0.007) << rank;
  const std::pair<int64_t, double> gemma3[] = {{0, 0.66}, {64, 0.74}, {128, 0.82}, {256, 0.97}, {512, 1.27}};
  for (const auto& [rank, expected] : gemma3) EXPECT_NEAR(billions(kGemma2B, 3, rank), expected, 0.007) << rank;
  const std::pair<int64_t, double> llama[] = {{0, 0.48}, {64, 0.53}, {128, 0.58}, {256, 0.68}, {512, 0.86}};
  for (const auto& [rank, expected] : llama) EXPECT_NEAR(billions(kTinyLlama, 2, rank), expected, 0.007) << rank;
  const std::pair<int64_t, double> pythia[] = {{0, 0.40}, {64, 0.44}, {128, 0.48}, {256, 0.55}, {512, 0.70}};
  for (const auto& [rank, expected] : pythia) EXPECT_NEAR(billions(kPythia1B, 2, rank), expected, 0.007) << rank;
}

TEST(Tie, RanksByPatternAreClipped) {
  TieOptions options;
  options.rank = 512;
  options.rank_pattern = {{"mlp.down_proj", 128}, {"q_proj", 7}};
  EXPECT_EQ(adapter_rank(options, "model.layers.0.mlp.down_proj", {2048, 16384}), 128);
  EXPECT_EQ(adapter_rank(options, "model.layers.0.self_attn.q_proj", {2048, 2048}), 7);
  EXPECT_EQ(adapter_rank(options, "model.layers.0.self_attn.k_proj", {256, 2048}), 256);
  EXPECT_EQ(adapter_rank(options, "gpt_neox.layers.0.attention.query_key_value", {6144, 2048}), 768);
  EXPECT_EQ(adapter_rank(options, "gpt_neox.layers.0.attention.query_key_value", {1536, 512}), 512);
  options.rank_pattern = {{"o_porj", 3}};
  options.recursion.loops = 2;
  EXPECT_EQ(std::string(test::error_of([&] { tied_config(options, kGemma2B); }).what()),
            "rank pattern: 'o_porj' is no matrix of a layer; expected for example down_proj");
}

at::Tensor reference(const at::Tensor& x, int64_t rank) {
  const auto [u, s, vh] = at::linalg_svd(x.to(at::kDouble), /*full_matrices=*/false);
  return at::matmul(u.narrow(1, 0, rank) * s.narrow(0, 0, rank), vh.narrow(0, 0, rank));
}

TEST(LowRank, ProductsAreTheTruncatedDecomposition) {
  at::manual_seed(1);
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{40, 24}, {24, 40}, {33, 33}, {1, 7}, {300, 64}})
    for (const int64_t rank : {int64_t{1}, int64_t{5}, std::min(out, in)})
      for (const auto type : {at::kFloat, at::kDouble}) {
        if (rank > std::min(out, in)) continue;
        const at::Tensor x = at::randn({out, in}, at::TensorOptions(type));
        const LowRank found = low_rank(x, rank);
        const at::Tensor product = at::matmul(found.b, found.a), expected = reference(x, rank);
        expect_close(product, expected, type == at::kFloat ? 1e-6 : 1e-12, "product");
        const double kept = expected.square().sum().item<double>(), all = x.square().sum().item<double>();
        EXPECT_NEAR(found.kept / kept, 1, 1e-6);
        EXPECT_NEAR(found.all / all, 1, 1e-6);
      }
}

// Larger than what is decomposed whole: no more is lost than a hundredth above the least that can be.
TEST(LowRank, LargeMatricesAreSampled) {
  at::manual_seed(2);
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1100, 1200}, {1300, 1050}}) {
    const at::Tensor decay = (-0.02 * at::arange(out, at::kDouble)).exp().unsqueeze(1);
    const at::Tensor x = at::matmul(at::randn({out, out}, at::kDouble) * decay.t(), at::randn({out, in}, at::kDouble));
    for (const int64_t rank : {8, 64}) {
      const LowRank found = low_rank(x.to(at::kFloat), rank);
      const double lost = (at::matmul(found.b, found.a) - x).square().sum().item<double>();
      const double least = (reference(x, rank) - x).square().sum().item<double>();
      EXPECT_LE(lost, 1.01 * least) << rank;
      EXPECT_NEAR(found.all - found.kept, lost, 0.01 * lost);
    }
  }
}

TEST(LowRank, WhereThereIsNothingTrainingCanBegin) {
  at::manual_seed(3);
  const at::Tensor x = at::matmul(at::randn({20, 2}), at::randn({2, 12}));
  const LowRank found = low_rank(x, 5);
  expect_close(at::matmul(found.b, found.a), x, 1e-6, "product");
  EXPECT_TRUE(found.b.narrow(1, 2, 3).eq(0).all().item<bool>());
  EXPECT_GT(found.a.narrow(0, 2, 3).abs().sum().item<double>(), 0.1);
  const LowRank none = low_rank(at::zeros({6, 9}), 3);
  EXPECT_TRUE(none.b.eq(0).all().item<bool>());
  EXPECT_GT(none.a.abs().sum().item<double>(), 0.1);
}

}  // namespace
}  // namespace liger
