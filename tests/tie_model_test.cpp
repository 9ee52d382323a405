// Models whose layers are tied: converted, opened, decoded, trained through, and untied again.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn_like.h>

#include <cmath>

#include "command.h"
#include "liger/convert/convert.h"
#include "liger/error.h"
#include "liger/nn/lora.h"
#include "liger/nn/step_decoder.h"
#include "model_folder.h"
#include "tensor_testing.h"
#include "tiny_model.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using testing::expect_close;

const Sequences kText({{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3}, {2, 7, 1, 8}});

struct Kind {
  const char* family = "llama";
  Sharing sharing = Sharing::kCycle;
  int64_t loops = 2;
  TieNorms norms = TieNorms::kFolded;
};
const Kind kKinds[] = {{},
                       {"gemma"},
                       {"llama", Sharing::kCycle, 3},
                       {"llama", Sharing::kSequence, 2, TieNorms::kDepth},
                       {"gemma", Sharing::kSequence, 3},
                       {"llama", Sharing::kMiddleCycle, 2},
                       {"gemma", Sharing::kMiddleCycle, 4, TieNorms::kDepth},
                       {"llama", Sharing::kMiddleSequence, 2},
                       {"gpt_neox"},
                       {"gpt_neox", Sharing::kMiddleCycle, 2, TieNorms::kDepth},
                       {"qwen2", Sharing::kCycle, 3},
                       {"qwen3", Sharing::kCycle, 3},
                       {"gemma2", Sharing::kCycle, 3, TieNorms::kDepth},
                       {"gemma3_text", Sharing::kCycle, 3},
                       {"gemma3_text", Sharing::kMiddleCycle, 2}};

// Layers whose windows alternate.
TEST(TiedWindows, LayersThatShareWeightsMustSeeTheSame) {
  ModelConfig model = test::random_config(50);
  model.num_hidden_layers = 12;
  test::become(model, "gemma2");
  const auto refused = [&](Sharing sharing, int64_t loops) -> std::string {
    try {
      const ModelConfig tied = tied_config({.recursion = {.loops = loops, .sharing = sharing}}, model);
      EXPECT_EQ(tied.sliding_layers, model.sliding_layers);
      return "";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
  };
  EXPECT_EQ(refused(Sharing::kCycle, 2), "");
  EXPECT_EQ(refused(Sharing::kCycle, 4),
            "loops: layers 0 and 3 would share weights, and the one sees the last 7 tokens, the other all; expected "
            "blocks that their pattern repeats in: loops 2, 3, 6");
  EXPECT_NE(refused(Sharing::kSequence, 2).find("with sharing sequence there are none"), std::string::npos);
  EXPECT_EQ(refused(Sharing::kMiddleCycle, 5), "");
  model.sliding_layers.clear();
  EXPECT_EQ(refused(Sharing::kSequence, 2), "");
}

class Tied : public ::testing::Test {
 protected:
  // Six layers with gains of norms all their own.
  void write_model(const char* family, at::ScalarType type, std::optional<LigerConfig> liger = {}) {
    fs::remove_all(model_);
    test::write_model_folder(model_);  // for its tokenizer
    ModelConfig config = ModelConfig::read(model_);
    config.num_hidden_layers = 6;
    test::become(config, family);
    config.initializer_range = 0.15;
    config.stored_dtype = type == at::kDouble ? "float64" : "float32";
    config.liger = std::move(liger);
    const auto model = test::random_model(config, 3, type);
    const at::NoGradGuard no_grad;
    for (auto& item : model->named_parameters())
      if (item.value().dim() == 1) item.value().add_(0.3 * at::randn_like(item.value()));
    model->save_weights(model_ / "model.safetensors");
    test::write_file(model_ / "config.json", config.to_json().dump(2));
  }

  TieOptions options(const Kind& kind, int64_t rank) {
    TieOptions out{.recursion = {.loops = kind.loops, .sharing = kind.sharing}, .norms = kind.norms};
    out.rank = rank;
    return out;
  }
  Converted tie(const TieOptions& tie, const std::string& arch = "") {
    fs::remove_all(tied_);
    return run_conversion(plan_conversion({.model = model_, .arch = arch, .tie = tie, .out = tied_}));
  }
  fs::path untie(const fs::path& adapter = {}) {
    fs::remove_all(untied_);
    return run_conversion(
               plan_conversion({.model = tied_, .arch = "", .untie = true, .merge = adapter, .out = untied_}))
        .folder;
  }
  at::Tensor logits(const fs::path& dir, const LoadOptions& load = {}) {
    const at::NoGradGuard no_grad;
    const auto model = CausalLM::load(dir, load);
    return model->logits(model->hidden_states(kText));
  }
  std::string refusal(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing was refused";
  }

  test::TemporaryFolder folder_;
  fs::path model_ = folder_ / "model", tied_ = folder_ / "tied", untied_ = folder_ / "untied";
};

constexpr int64_t kFull = 1000;  // more than any matrix has

TEST_F(Tied, FullRankIsTheModel) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(cat(kind.family, ", ", to_string(kind.sharing), ", ", kind.loops, " loops, ", to_string(kind.norms)));
    write_model(kind.family, at::kDouble);
    const at::Tensor expected = logits(model_);
    for (const TieInit init : {TieInit::kAverage, TieInit::kStepwise, TieInit::kUpper, TieInit::kRandom}) {
      TieOptions how = options(kind, kFull);
      how.init = init;
      const Converted done = tie(how);
      EXPECT_LT((logits(tied_) - expected).abs().max().item<double>(), 1e-10) << to_string(init);
      for (const auto& [linear, kept] : done.kept) EXPECT_NEAR(kept, 1, 1e-9) << linear;
    }
    const at::NoGradGuard no_grad;
    const auto in_memory = tied_model(model_, options(kind, kFull));
    EXPECT_LT((in_memory->logits(in_memory->hidden_states(kText)) - expected).abs().max().item<double>(), 1e-10);
  }
}

// Norms that are tied and not folded are what full rank cannot give back.
TEST_F(Tied, TiedNormsAreNotTheModel) {
  write_model("llama", at::kDouble);
  tie(options({.norms = TieNorms::kTied}, kFull));
  EXPECT_GT((logits(tied_) - logits(model_)).abs().max().item<double>(), 1e-2);
}

TEST_F(Tied, AFolderIsAPlainModelAndAnAdapter) {
  write_model("llama", at::kFloat);
  tie(options({}, 4));
  const Json config = read_json(tied_ / "config.json");
  EXPECT_EQ(config["num_hidden_layers"], 3);
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["recursive"], (Json{{"loops", 2}, {"sharing", "cycle"}, {"norms", "tied"}, {"adapter", true}}));
  const Json adapter = read_json(tied_ / "adapter" / "adapter_config.json");
  EXPECT_EQ(adapter["layer_replication"], (Json{{0, 3}, {0, 3}}));
  EXPECT_EQ(adapter["r"], adapter["lora_alpha"]);
  const auto model = CausalLM::load(tied_);
  EXPECT_EQ(model->config().num_hidden_layers, 6);
  EXPECT_EQ(model->config().stored_layers(), 3);
  EXPECT_EQ(read_adapter(tied_ / "adapter", model->config()).modules.size(), 6 * 7);

  // Without "recursive" PEFT's key alone says it.
  fs::copy(tied_ / "adapter", folder_ / "adapter", fs::copy_options::recursive);
  const at::Tensor expected = logits(tied_);
  Json plain = config;
  plain.erase("recursive");
  test::write_file(tied_ / "config.json", plain.dump());
  EXPECT_TRUE(logits(tied_, {.adapter = folder_ / "adapter"}).equal(expected));
}

TEST_F(Tied, WeightsAreInMemoryOnce) {
  write_model("llama", at::kFloat);
  tie(options({}, 4));
  const auto model = CausalLM::load(tied_);
  int64_t shared = 0, adapters = 0;
  for (const auto& item : model->named_parameters()) (is_lora(item.key()) ? adapters : shared) += item.value().numel();
  const TiedSizes sizes = tied_sizes(options({}, 4), ModelConfig::read(model_));
  EXPECT_EQ(shared, sizes.base);
  EXPECT_EQ(adapters, sizes.adapters);
  EXPECT_EQ(model->named_modules()["model.layers.1.mlp.up_proj"]->as<Linear>()->weight.data_ptr(),
            model->named_modules()["model.layers.4.mlp.up_proj"]->as<Linear>()->weight.data_ptr());
}

TEST_F(Tied, UntiedItIsAPlainModel) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(cat(kind.family, ", ", to_string(kind.sharing), ", ", to_string(kind.norms)));
    write_model(kind.family, at::kFloat);
    tie(options(kind, 5));
    const at::Tensor expected = logits(tied_);
    const ModelConfig plain = ModelConfig::read(untie());
    EXPECT_FALSE(plain.recursive);
    EXPECT_EQ(plain.num_hidden_layers, 6);
    EXPECT_FALSE(fs::exists(untied_ / "adapter"));
    expect_close(logits(untied_), expected, 1e-5, "untied");
  }
  write_model("llama", at::kFloat);
  tie(options({}, 0));  // strictly tied: no adapter at all
  EXPECT_FALSE(fs::exists(tied_ / "adapter"));
  const at::Tensor expected = logits(tied_);
  untie();
  expect_close(logits(untied_), expected, 1e-6, "strictly tied");
}

TEST_F(Tied, LinearizedLayersAreTiedToo) {
  write_model("llama", at::kFloat);
  tie(options({}, kFull), "gla");
  EXPECT_EQ(read_json(tied_ / "config.json")["model_type"], "liger_gla");
  LoadOptions linear;
  linear.liger = LigerConfig{};
  expect_close(logits(tied_), logits(model_, linear), 1e-4, "tied and linearized");

  // The other way round, with numbers of heads for every depth.
  LigerConfig liger = test::recommended();
  write_model("llama", at::kFloat, liger);
  tie(options({.sharing = Sharing::kMiddleCycle}, kFull));
  EXPECT_EQ(read_json(tied_ / "config.json")["model_type"], "liger_gated_retention");
  expect_close(logits(tied_), logits(model_), 1e-4, "linearized and then tied");
}

TEST_F(Tied, DecodingIsTheWholeText) {
  for (const char* arch : {"", "gla"}) {
    write_model("llama", at::kFloat);
    tie(options({.norms = TieNorms::kDepth}, 4), arch);
    const at::NoGradGuard no_grad;
    const auto model = CausalLM::load(tied_);
    const at::Tensor whole = logits(tied_).narrow(0, 0, 16);
    DecodingState state;
    StepDecoder decoder(*model, 1);
    for (int64_t t = 0; t < 16; ++t) {
      const int64_t id = kText.ids()[t].item<int64_t>();
      expect_close(decoder.step({&id, 1}, state).view({-1}), whole[t], 2e-5, arch);
    }
    EXPECT_EQ(state.layers.size(), 6);
  }
}

// The gradient of a shared weight is the sum over its depths, with checkpointing too.
TEST_F(Tied, GradientsAreSumsOverDepths) {
  write_model("llama", at::kDouble);
  tie(options({}, 4));
  const auto gradients = [&](CausalLM& model) {
    for (at::Tensor& parameter : model.parameters()) parameter.set_requires_grad(true);
    model.hidden_states(kText).square().sum().backward();
    std::map<std::string, at::Tensor> out;
    for (const auto& item : model.named_parameters()) out[item.key()] = item.value().grad();
    return out;
  };
  const auto tied = CausalLM::load(tied_), again = CausalLM::load(tied_);
  again->checkpoint_layers(true);
  const auto ours = gradients(*tied), checkpointed = gradients(*again);
  // The same model with every depth on its own: the base's weights, and the same adapters.
  const auto plain = std::make_shared<CausalLM>(ModelConfig::read(tied_).unrolled(), at::TensorOptions(at::kDouble));
  LoraConfig lora = read_adapter_config(tied_ / "adapter");
  lora.layer_replication.clear();
  add_lora(*plain, lora);
  {
    const at::NoGradGuard no_grad;
    const auto from = tied->named_parameters();
    for (auto& item : plain->named_parameters()) {
      const bool own = is_lora(item.key());
      item.value().copy_(from[own ? item.key() : tied->config().stored_name(item.key())]);
    }
  }
  const auto single = gradients(*plain);
  for (const auto& [name, gradient] : ours) {
    if (name == "lm_head.weight") continue;  // not read
    at::Tensor sum;
    for (const auto& [other, part] : single) {
      const bool own = is_lora(name);
      if ((own ? other : tied->config().stored_name(other)) != name) continue;
      sum = sum.defined() ? sum + part : part;
    }
    expect_close(gradient, sum, 1e-10, name.c_str());
    expect_close(checkpointed.at(name), gradient, 1e-12, name.c_str());
  }
}

TEST_F(Tied, WhatDoesNotFitIsRefused) {
  write_model("llama", at::kFloat);
  tie(options({}, 4));
  const auto expect = [](const std::string& refusal, const std::string& part) {
    EXPECT_NE(refusal.find(part), std::string::npos) << refusal;
  };
  expect(refusal([&] { tie(options({.loops = 4}, 4)); }), "loops: 4 do not divide 6 layers; expected one of 2, 3, 6");
  tie(options({}, 4));
  const auto convert = [&](ConvertOptions how) {
    how.out = folder_ / "other";
    run_conversion(plan_conversion(how));
  };
  expect(refusal([&] { convert({.model = tied_, .arch = "", .tie = options({}, 4)}); }), "tied already; untie them");
  expect(refusal([&] { convert({.model = model_, .arch = "", .untie = true}); }), "layers are not tied");
  expect(refusal([&] { convert({.model = tied_, .arch = "", .merge = tied_ / "adapter"}); }), "add --untie");
  expect(refusal([&] { convert({.model = model_, .arch = "", .merge = tied_ / "adapter"}); }),
         "'layer_replication': expected each layer once, as the model runs its layers, got [[0, 3], [0, 3]]");
  expect(refusal([&] { convert({.model = model_, .arch = "", .tie = options({.norms = TieNorms::kDepth}, 0)}); }),
         "norms: depth needs an adapter");

  // An adapter for other loops, of another rank than it says, or for depths there are not.
  fs::copy(tied_ / "adapter", folder_ / "kept", fs::copy_options::recursive);
  tie(options({.loops = 3}, 4));
  expect(refusal([&] { logits(tied_, {.adapter = folder_ / "kept"}); }), "the adapter was made for other loops");
  tie(options({}, 4));
  Json adapter = read_json(tied_ / "adapter" / "adapter_config.json");
  adapter["r"] = 3;
  test::write_file(tied_ / "adapter" / "adapter_config.json", adapter.dump());
  expect(refusal([&] { logits(tied_); }), "lora_A.weight: expected [3, 32], got [4, 32]");
  adapter["r"] = 4;
  adapter["layers_to_transform"] = {6};
  test::write_file(tied_ / "adapter" / "adapter_config.json", adapter.dump());
  expect(refusal([&] { logits(tied_); }), "layer 6 is not in the model");
  Json config = read_json(tied_ / "config.json");
  config["recursive"]["loops"] = 1;
  test::write_file(tied_ / "config.json", config.dump());
  expect(refusal([&] { logits(tied_); }), "'recursive': 'loops': expected an integer from 2");

  // Without the adapter it was made with it is another model.
  tie(options({}, 4));
  fs::remove_all(tied_ / "adapter");
  expect(refusal([&] { logits(tied_); }), "copy the folder as a whole");

  // A plain model where a tied one is said to be, and weights that are no numbers.
  write_model("llama", at::kFloat);
  config = read_json(model_ / "config.json");
  config["recursive"] = {{"loops", 2}, {"sharing", "cycle"}};
  config["num_hidden_layers"] = 3;
  test::write_file(model_ / "config.json", config.dump());
  expect(refusal([&] { logits(model_); }), "model.layers.{3-5}");
  for (const char* name : {"model.layers.4.mlp.up_proj.weight", "model.embed_tokens.weight"}) {
    write_model("llama", at::kFloat);
    {
      const at::NoGradGuard no_grad;
      const auto model = CausalLM::load(model_);
      at::Tensor weight = model->named_parameters()[name];
      weight[3][5] = NAN;
      model->save_weights(folder_ / "model.safetensors");
      fs::rename(folder_ / "model.safetensors", model_ / "model.safetensors");
    }
    expect(refusal([&] { tie(options({}, 4)); }), cat("'", name, "': holds values that are not finite"));
    EXPECT_FALSE(fs::exists(tied_));
  }
}

TEST_F(Tied, TheToolSaysWhatItCosts) {
  write_model("llama", at::kFloat);
  const auto run = [&](std::vector<std::string> arguments) {
    std::vector<std::string> all = {"--model", model_.string(), "--out", tied_.string(), "--overwrite"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return test::run_tool("liger-convert", all);
  };
  const auto done = run({"--arch", "recursive", "--loops", "2", "--lora-rank", "4", "--compare-inits", "--json"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const Json tied = Json::parse(done.out)["tied"];
  EXPECT_EQ(tied["inits"].size(), 5);
  const double kept = tied["energy_kept"]["self_attn.q_proj"];
  EXPECT_TRUE(kept > 0.1 && kept < 0.9) << kept;
  EXPECT_GT(tied["inits"]["average"]["divergence"], 0);
  EXPECT_NE(run({"--arch", "recursive"}).err.find("set --loops"), std::string::npos);
  EXPECT_NE(run({"--loops", "2"}).err.find("--arch, --merge or --untie is required"), std::string::npos);
  EXPECT_NE(run({"--arch", "recursive", "--loops", "2", "--window", "9"}).err.find("--window has no meaning"),
            std::string::npos);
  EXPECT_NE(run({"--arch", "gla", "--init", "lower"}).err.find("--loops"), std::string::npos);
  EXPECT_NE(run({"--arch", "recursive", "--loops", "2", "--lora-rank", "many"}).err.find("expected a rank such as 64"),
            std::string::npos);
}

}  // namespace
}  // namespace liger
