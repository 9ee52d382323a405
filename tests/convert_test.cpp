#include "liger/convert/convert.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <cstdint>

#include "command.h"
#include "convert/config_edit.h"
#include "liger/core/checkpoint.h"
#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/models/structure.h"
#include "tiny_model.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;

bool same_inode(const fs::path& a, const fs::path& b) {
  struct stat first{}, second{};
  return stat(a.c_str(), &first) == 0 && stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

class Convert : public testing::Test {
 protected:
  fs::path convert(ConvertOptions options) { return run_conversion(plan_conversion(std::move(options))).folder; }

  // The error a conversion to "out" ends with; nothing may be left behind.
  std::string error_of(ConvertOptions options, ErrorCode code = ErrorCode::kBadInput) {
    const auto before = test::listing(folder_.path());
    options.out = folder_ / "out";
    std::string text;
    try {
      convert(std::move(options));
      ADD_FAILURE() << "was converted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      text = e.what();
    }
    EXPECT_EQ(test::listing(folder_.path()), before);
    return text;
  }

  test::TemporaryFolder folder_;
  fs::path model_ = folder_ / "model", out_ = folder_ / "out";
};

TEST_F(Convert, ThereAndBackIsTheSameModel) {
  for (const int shards : {1, 3}) {
    const fs::path model = folder_ / ("model" + std::to_string(shards)),
                   there = folder_ / ("a" + std::to_string(shards)), back = folder_ / ("b" + std::to_string(shards));
    TinyModel{.shards = shards}.write(model);
    EXPECT_EQ(convert({.model = model, .out = there}), there);
    EXPECT_TRUE(ModelConfig::read(there).liger.has_value());
    convert({.model = there, .arch = "softmax", .out = back});
    EXPECT_EQ(test::read_file(back / "config.json"), test::read_file(model / "config.json"));
    EXPECT_EQ(test::read_weights(back), test::read_weights(model));
    const WeightFiles weights(model);
    for (const auto& file : weights.files()) {
      EXPECT_TRUE(same_inode(file->path(), there / file->path().filename()));
      EXPECT_TRUE(same_inode(file->path(), back / file->path().filename()));
    }
    verify_manifest(there);
    verify_manifest(back);
  }
}

TEST_F(Convert, KeepsEveryOtherKeyInItsPlace) {
  TinyModel().write(model_);
  OrderedJson config = read_ordered_json(model_ / "config.json");
  config["zebra"] = {{"b", 1}, {"a", 1e-5}};
  config["aardvark"] = nullptr;
  test::write_file(model_ / "config.json", config.dump());
  convert({.model = model_, .out = out_, .liger = {.window = 64, .sinks = 4, .mix = 0.25, .gate_divisor = 8}});
  config["architectures"] = {"LigerGLAForCausalLM"};
  config["model_type"] = "liger_gla";
  config["liger"] = {{"recurrence", "gla"}, {"window", 64},        {"sinks", 4},
                     {"mix", 0.25},         {"gate_divisor", 8.0}, {"base_model_type", "llama"}};
  EXPECT_EQ(test::read_file(out_ / "config.json"), config.dump(2) + "\n");
}

TEST_F(Convert, AddsTheOlderSpellingThatThePublishedCodeReads) {
  TinyModel().write(model_);
  OrderedJson config = read_ordered_json(model_ / "config.json");
  for (const char* key : {"rope_theta", "rope_scaling", "torch_dtype"}) config.erase(key);
  config["rope_parameters"] = {{"rope_type", "llama3"},   {"rope_theta", 5e5},
                               {"factor", 8.0},           {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}};
  test::write_file(model_ / "config.json", config.dump());
  convert({.model = model_, .out = out_});
  const OrderedJson after = read_ordered_json(out_ / "config.json");
  EXPECT_EQ(after["rope_parameters"], config["rope_parameters"]);
  EXPECT_EQ(after["rope_theta"], 5e5);
  EXPECT_EQ(after["rope_scaling"]["rope_type"], "llama3");
  EXPECT_FALSE(after["rope_scaling"].contains("rope_theta"));
  EXPECT_EQ(after["torch_dtype"], "bfloat16");
  EXPECT_EQ(after["liger"]["added"], (OrderedJson{"torch_dtype", "rope_theta", "rope_scaling"}));
  convert({.model = out_, .arch = "softmax", .out = folder_ / "back"});
  EXPECT_EQ(read_ordered_json(folder_ / "back" / "config.json"), config);
}

TEST_F(Convert, EveryStructureIsNamedAndComesBack) {
  TinyModel().write(model_);
  for (const Structure& structure : structures()) {
    const fs::path there = folder_ / "there", back = folder_ / "back";
    convert({.model = model_, .arch = structure.name, .out = there, .liger = {.window = 9}, .overwrite = true});
    const OrderedJson config = read_ordered_json(there / "config.json");
    EXPECT_EQ(config["model_type"], liger_model_type(structure.name));
    EXPECT_EQ(config["architectures"], OrderedJson::array({liger_architecture(structure.name)}));
    EXPECT_EQ(config.contains("pool_size"), structure.name == std::string("gsa"));
    EXPECT_EQ(*ModelConfig::read(there).liger, (LigerConfig{.recurrence = structure.name, .window = 9}));
    convert({.model = there, .arch = "softmax", .out = back, .overwrite = true});
    EXPECT_EQ(test::read_file(back / "config.json"), test::read_file(model_ / "config.json")) << structure.name;
    EXPECT_TRUE(same_inode(model_ / "model.safetensors", back / "model.safetensors"));
  }
}

TEST_F(Convert, AHybridKeepsTheLayersAskedFor) {
  TinyModel().write(model_);
  const auto kept = [&](ConvertOptions options) {
    options.model = model_, options.out = out_;
    return plan_conversion(std::move(options)).options.liger.softmax_layers;
  };
  using Layers = std::vector<int64_t>;
  EXPECT_EQ(kept({.keep_softmax = 1}), Layers{1});
  EXPECT_EQ(kept({.keep_softmax = 2}), Layers{2});
  EXPECT_EQ(kept({.liger = {.softmax_layers = {2, 0}}}), (Layers{0, 2}));
  convert({.model = model_, .arch = "kda", .out = out_, .keep_softmax = 1});
  EXPECT_EQ(read_ordered_json(out_ / "config.json")["liger"]["softmax_layers"], OrderedJson::array({1}));
  EXPECT_EQ(ModelConfig::read(out_).liger->softmax_layers, Layers{1});
  convert({.model = out_, .arch = "softmax", .out = folder_ / "back"});
  EXPECT_EQ(test::read_file(folder_ / "back/config.json"), test::read_file(model_ / "config.json"));

  const auto refusal = [&](ConvertOptions options) {
    options.model = model_;
    return error_of(std::move(options), ErrorCode::kUsage);
  };
  EXPECT_NE(refusal({.keep_softmax = 3}).find("--keep-softmax: expected less than 3, the number of layers"),
            std::string::npos);
  EXPECT_NE(refusal({.keep_softmax = 0}).find("--keep-softmax: expected 1 or more"), std::string::npos);
  EXPECT_NE(refusal({.keep_softmax = INT64_MAX}).find("got 9223372036854775807"), std::string::npos);
  EXPECT_NE(refusal({.liger = {.softmax_layers = {0}}, .keep_softmax = 1}).find("choose one"), std::string::npos);
  EXPECT_NE(refusal({.liger = {.softmax_layers = {0, 1, 2}}}).find("--arch softmax"), std::string::npos);
}

TEST_F(Convert, WarnsOfWhatThePublishedCodeDoesOtherwise) {
  TinyModel().write(model_);
  const auto warnings = [&](ConvertOptions options) {
    options.model = model_, options.out = out_;
    std::string all;
    for (const std::string& warning : plan_conversion(std::move(options)).warnings) all += warning + "\n";
    return all;
  };
  for (const char* published : {"gla", "gsa", "hgrn2"}) EXPECT_EQ(warnings({.arch = published}), "") << published;
  EXPECT_EQ(warnings({.arch = "mamba2", .liger = {.window = 9}}),
            "the published Liger code has no mamba2; only liger runs this model\n");
  EXPECT_NE(warnings({.liger = {.window = 0, .mix = 0.3}}).find("ignore window 0 (it uses 65); only"),
            std::string::npos);
  EXPECT_NE(warnings({.arch = "hgrn2", .keep_softmax = 1}).find("ignore softmax_layers [1] (it linearizes all); only"),
            std::string::npos);
}

TEST_F(Convert, HeadsTooWideForTheStructureAreRefused) {
  TinyModel().write(model_);
  OrderedJson config = read_ordered_json(model_ / "config.json");
  config["head_dim"] = 1024;
  test::write_file(model_ / "config.json", config.dump());
  const std::string error = error_of({.model = model_, .arch = "gsa"}, ErrorCode::kUsage);
  EXPECT_NE(error.find("gsa keeps head_dim^2 numbers a head and can do so for a head_dim of at most 512"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("swa, which has a window and no recurrence, or softmax attention"), std::string::npos) << error;
}

TEST_F(Convert, GemmaComesBackAsGemma) {
  TinyModel{.model_type = "gemma", .tied = true}.write(model_);
  const ConvertPlan plan = plan_conversion({.model = model_, .out = out_});
  ASSERT_EQ(plan.warnings.size(), 1u);
  EXPECT_NE(plan.warnings[0].find("no gemma"), std::string::npos);
  run_conversion(plan);
  EXPECT_EQ(ModelConfig::read(out_).family, find_family("gemma"));
  convert({.model = out_, .arch = "softmax", .out = folder_ / "back"});
  EXPECT_EQ(test::read_file(folder_ / "back/config.json"), test::read_file(model_ / "config.json"));
}

TEST_F(Convert, EveryFamilyComesBackAsItWas) {
  for (const Family* family : families()) {
    TinyModel{.model_type = family->model_type, .tied = family->tied_by_default}.write(model_);
    const fs::path there = folder_ / "there", back = folder_ / "back";
    const ConvertPlan plan = plan_conversion({.model = model_, .out = there, .overwrite = true});
    const std::string all = OrderedJson(plan.warnings).dump();
    EXPECT_EQ(all.find("saw the last 7 tokens") != std::string::npos, family->windows != Windows::kNone) << all;
    EXPECT_EQ(all.find("--softmax-layers") != std::string::npos,
              family->windows != Windows::kNone && family->windows != Windows::kAll)
        << all;
    run_conversion(plan);
    const ModelConfig config = ModelConfig::read(there);
    EXPECT_EQ(config.family, family);
    EXPECT_EQ(config.sliding_layers, ModelConfig::read(model_).sliding_layers);
    convert({.model = there, .arch = "softmax", .out = back, .overwrite = true});
    EXPECT_EQ(test::read_file(back / "config.json"), test::read_file(model_ / "config.json")) << family->model_type;
    EXPECT_TRUE(same_inode(model_ / "model.safetensors", back / "model.safetensors"));
  }
}

TEST_F(Convert, TokenizerAndLicenceComeAlongAsCopies) {
  TinyModel().write(model_);
  for (const char* name : {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "LICENSE.txt",
                           "generation_config.json", "chat_template.jinja", "NOTICE", "USE_POLICY.md"}) {
    test::write_file(model_ / name, name);
  }
  test::write_file(model_ / "README.md", "---\nlicense: llama3\nlanguage: en\n---\n");
  test::write_file(model_ / "original/consolidated.00.pth", "x");
  test::write_file(model_ / "notes.txt", "x");
  convert({.model = model_, .out = out_});
  EXPECT_EQ(
      test::listing(out_),
      (std::set<std::string>{"LICENSE.txt", "MANIFEST.json", "NOTICE", "README.md", "USE_POLICY.md",
                             "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
                             "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}));
  EXPECT_EQ(test::read_file(out_ / "tokenizer.model"), "tokenizer.model");
  EXPECT_FALSE(same_inode(out_ / "tokenizer.model", model_ / "tokenizer.model"));
}

TEST_F(Convert, TheModelCardIsFilled) {
  const fs::path snapshot = folder_ / "models--org--Base-1B/snapshots/abc";
  TinyModel().write(snapshot);
  test::write_file(snapshot / "README.md", "---\nlicense: llama3\nlicense_name: x\nlanguage: en\n---\nlicense: no\n");
  convert({.model = snapshot, .out = out_, .liger = {.window = 33}});
  const std::string card = test::read_file(out_ / "README.md");
  for (const std::string& expected :
       {std::string("base_model: org/Base-1B\nlicense: llama3\nlicense_name: x\npipeline_tag"),
        std::string("| window | 33 |"), sha256_file(snapshot / "config.json"), std::string("liger-finetune"),
        std::string("| model.safetensors | "), std::string("will ignore window 33 (it uses 65)"),
        std::string("model_type: \"llama\" -> \"liger_gla\"")}) {
    EXPECT_NE(card.find(expected), std::string::npos) << expected << "\n" << card;
  }
}

TEST_F(Convert, TheModelCardSaysWhatTheLayersAreMadeOf) {
  TinyModel().write(model_);
  const auto card = [&](ConvertOptions options) {
    options.model = model_, options.out = out_;
    const ConvertPlan plan = plan_conversion(std::move(options));
    for (const PlannedFile& file : plan.files)
      if (file.name == "README.md") return file.content;
    return std::string();
  };
  const auto expect_in = [](const std::string& text, std::initializer_list<const char*> parts) {
    for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  };
  const std::string hybrid = card({.arch = "kda", .keep_softmax = 2});
  expect_in(hybrid, {"attention of 2 of its 3 layers", "a linear recurrence (kda) and a sliding window, both from",
                     "| softmax_layers | [2] |", "| gate_divisor | 16 | its decay is sigmoid(k)^(1/gate_divisor) |",
                     "grows with the text in the other layers only", "> Note: the published Liger code has no kda"});
  const std::string pure = card({.arch = "linear", .liger = {.window = 0}});
  expect_in(pure, {"attention of all 3 layers", "a linear recurrence (linear) from the same", "| window | 0 |"});
  EXPECT_EQ(pure.find("| mix |"), std::string::npos);
  EXPECT_EQ(pure.find("| gate_divisor |"), std::string::npos);
  const std::string window = card({.arch = "swa"});
  expect_in(window, {"(arXiv 2503.01496): a sliding window from the same", "does not grow with the text"});
  EXPECT_EQ(window.find("| mix |"), std::string::npos);
}

TEST_F(Convert, NamesOfOutputs) {
  EXPECT_EQ(default_output_name(folder_ / "models--org--Base-1B/snapshots/abc", "gla"), "Base-1B-liger-gla");
  EXPECT_EQ(default_output_name(folder_ / "x", "gated-deltanet"), "x-liger-gated-deltanet");
  EXPECT_EQ(default_output_name(folder_ / "x-liger-gla/", "softmax"), "x-softmax");
  EXPECT_EQ(default_output_name(folder_ / "x-liger-gated-deltanet", "softmax"), "x-softmax");
  EXPECT_EQ(default_output_name(folder_ / "x-liger-mine", "softmax"), "x-liger-mine-softmax");
}

TEST_F(Convert, DtypesAreThoseOfTorch) {
  for (const Dtype from : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    for (const Dtype to : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      if (from == to) continue;
      TinyModel{.dtype = from, .shards = 2}.write(model_);
      convert({.model = model_, .out = out_, .dtype = to, .overwrite = true});
      auto got = test::read_weights(out_);
      ASSERT_EQ(got.size(), TinyModel().tensors().size());
      for (auto& [name, stored] : test::read_weights(model_)) {
        auto& [dtype, bytes] = got.at(name);
        EXPECT_EQ(dtype, to);
        const int64_t n = static_cast<int64_t>(stored.second.size() / item_size(from));
        const at::Tensor expected =
            at::from_blob(stored.second.data(), {n}, to_scalar_type(from)).to(to_scalar_type(to));
        EXPECT_EQ(std::memcmp(bytes.data(), expected.const_data_ptr(), bytes.size()), 0) << name;
      }
      fs::remove_all(model_);
    }
  }
}

TEST_F(Convert, ADtypeIsNamedInTheSpellingsThatAreThere) {
  OrderedJson old_one = {{"torch_dtype", "float32"}}, both = {{"torch_dtype", "float32"}, {"dtype", "float32"}}, none;
  set_config_dtype(old_one, "bfloat16");
  set_config_dtype(both, "bfloat16");
  set_config_dtype(none, "bfloat16");
  EXPECT_EQ(old_one.dump(), R"({"torch_dtype":"bfloat16"})");
  EXPECT_EQ(both.dump(), R"({"torch_dtype":"bfloat16","dtype":"bfloat16"})");
  EXPECT_EQ(none.dump(), R"({"torch_dtype":"bfloat16"})");
}

TEST_F(Convert, OtherTensorsStayAsTheyAreStored) {
  auto tensors = TinyModel().tensors();
  const std::string name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  tensors.push_back({.name = name, .dtype = Dtype::kF32, .shape = {4}});
  TinyModel().write(model_, tensors);
  convert({.model = model_, .out = out_, .dtype = Dtype::kF16});
  EXPECT_EQ(test::read_weights(out_).at(name), test::read_weights(model_).at(name));
}

TEST_F(Convert, TheSameDtypeIsALink) {
  TinyModel().write(model_);
  convert({.model = model_, .out = out_, .dtype = Dtype::kBF16});
  EXPECT_TRUE(same_inode(model_ / "model.safetensors", out_ / "model.safetensors"));
}

TEST_F(Convert, ShardsKeepToTheSizeAndTheIndexIsComplete) {
  TinyModel().write(model_);
  constexpr uint64_t kSize = 8000;
  convert({.model = model_, .out = out_, .shard_size = kSize});
  EXPECT_EQ(test::read_weights(out_), test::read_weights(model_));
  const WeightFiles weights(out_);
  EXPECT_GT(weights.files().size(), 3u);
  uint64_t bytes = 0, elements = 0;
  for (const auto& file : weights.files()) {
    uint64_t held = 0;
    for (const TensorInfo& t : file->tensors()) held += t.bytes;
    EXPECT_LE(held, kSize);
    EXPECT_EQ(file->metadata().at("format"), "pt");
    bytes += held, elements += held / 2;
  }
  const Json index = read_json(out_ / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_EQ(index["metadata"]["total_parameters"], elements);
  EXPECT_EQ(index["weight_map"].size(), weights.entries().size());
  convert({.model = out_, .arch = "softmax", .out = folder_ / "one", .shard_size = 1'000'000});
  EXPECT_EQ(test::read_file(folder_ / "one/model.safetensors"), test::read_file(model_ / "model.safetensors"));
}

TEST_F(Convert, ATensorLargerThanAShardHasItsOwn) {
  TinyModel().write(model_);
  convert({.model = model_, .out = out_, .shard_size = 1});
  EXPECT_EQ(WeightFiles(out_).files().size(), TinyModel().tensors().size());
  EXPECT_EQ(test::read_weights(out_), test::read_weights(model_));
}

TEST_F(Convert, AcrossFileSystemsIsACopy) {
  struct stat here{}, there{};
  ASSERT_EQ(stat(folder_.path().c_str(), &here), 0);
  if (stat("/dev/shm", &there) != 0 || here.st_dev == there.st_dev || access("/dev/shm", W_OK) != 0) {
    GTEST_SKIP() << "needs /dev/shm on another file system than the temporary folder";
  }
  std::string name = "/dev/shm/liger-test-XXXXXX";
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  const fs::path out = fs::path(name) / "out";
  TinyModel{.shards = 2}.write(model_);
  const ConvertPlan plan = plan_conversion({.model = model_, .out = out});
  run_conversion(plan);
  EXPECT_EQ(plan.files[0].action, FileAction::kCopy);
  EXPECT_GT(plan.bytes_written, plan.files[0].bytes);
  EXPECT_EQ(test::read_weights(out), test::read_weights(model_));
  fs::remove_all(name);
}

TEST_F(Convert, AnEmbeddingStoredTwiceMustBeOne) {
  const TinyModel tied{.tied = true};
  auto tensors = tied.tensors();
  tensors.push_back({.name = "lm_head.weight", .dtype = Dtype::kBF16, .shape = {96, 32}});
  tied.write(model_, tensors);
  EXPECT_NE(error_of({.model = model_}).find("lm_head.weight differs from model.embed_tokens.weight"),
            std::string::npos);
  const std::vector<std::byte> same = test::random_weights(Dtype::kBF16, 96 * 32, 1);
  SafetensorsWriter writer(model_ / "model.safetensors", tensors);
  for (const TensorInfo& t : writer.order()) {
    const bool is_embedding = t.name == "lm_head.weight" || t.name == "model.embed_tokens.weight";
    writer.write(is_embedding ? same : test::random_weights(t.dtype, t.bytes / 2, 2));
  }
  writer.finish();
  convert({.model = model_, .out = out_});
}

TEST_F(Convert, AllThatDoesNotFitIsReportedAtOnce) {
  auto tensors = TinyModel().tensors();
  std::erase_if(tensors, [](const TensorInfo& t) {
    return t.name.ends_with("mlp.up_proj.weight") || t.name == "model.layers.1.self_attn.q_proj.weight";
  });
  for (TensorInfo& t : tensors) {
    if (t.name == "model.layers.2.self_attn.k_proj.weight") t.shape = {32, 16};
    if (t.name == "model.norm.weight") t.dtype = Dtype::kI32;
  }
  tensors.push_back({.name = "model.extra", .dtype = Dtype::kF32, .shape = {2}});
  TinyModel().write(model_, tensors);
  EXPECT_EQ(error_of({.model = model_}),
            model_.string() +
                ": weights do not fit config.json: missing model.layers.{0-2}.mlp.up_proj.weight [48, 32], "
                "model.layers.1.self_attn.q_proj.weight [32, 32]; unexpected model.extra [2]; wrong shape: "
                "model.layers.2.self_attn.k_proj.weight expected [16, 32], got [32, 16]; no floating-point numbers: "
                "model.norm.weight I32");
}

TEST_F(Convert, ValuesTooLargeForTheTypeAreRefused) {
  TinyModel().write(model_);
  const auto tensors = TinyModel().tensors();
  SafetensorsWriter writer(model_ / "model.safetensors", tensors);
  for (const TensorInfo& t : writer.order()) {
    std::vector<std::byte> bytes = test::random_weights(t.dtype, t.bytes / 2, 3);
    if (t.name == "model.layers.1.mlp.up_proj.weight") bytes[7] = std::byte{0x50};  // about 1e10
    writer.write(bytes);
  }
  writer.finish();
  const std::string error = error_of({.model = model_, .dtype = Dtype::kF16});
  EXPECT_NE(error.find("model.layers.1.mlp.up_proj.weight': 1 or more values are too large for F16"), std::string::npos)
      << error;
}

TEST_F(Convert, WhatCannotBeConvertedIsSaid) {
  TinyModel().write(model_);
  EXPECT_NE(error_of({.model = model_, .arch = "softmax"}).find("has softmax attention already"), std::string::npos);
  EXPECT_NE(error_of({.model = model_, .arch = "mamba"}, ErrorCode::kUsage).find("did you mean 'mamba2'?"),
            std::string::npos);
  EXPECT_NE(error_of({.model = model_, .arch = "swa", .liger = {.window = 0}}, ErrorCode::kUsage).find("window"),
            std::string::npos);
  EXPECT_NE(error_of({.model = model_, .liger = {.window = 0, .sinks = 4}}, ErrorCode::kUsage).find("sinks"),
            std::string::npos);
  EXPECT_NE(error_of({.model = model_, .liger = {.mix = NAN}}, ErrorCode::kUsage).find("mix"), std::string::npos);
  convert({.model = model_, .out = folder_ / "linear"});
  EXPECT_NE(error_of({.model = folder_ / "linear"}).find("linearized already"), std::string::npos);

  OrderedJson config = read_ordered_json(model_ / "config.json");
  config["quantization_config"] = {{"bits", 4}};
  test::write_file(model_ / "config.json", config.dump());
  EXPECT_NE(error_of({.model = model_}).find("quantized"), std::string::npos);
}

TEST_F(Convert, ATokenizerThatLeadsElsewhereIsRefused) {
  TinyModel().write(model_);
  fs::remove(model_ / "tokenizer.json");
  fs::create_symlink("/etc/passwd", model_ / "tokenizer.json");
  EXPECT_NE(error_of({.model = model_}).find("symbolic link"), std::string::npos);
}

TEST_F(Convert, ASnapshotOfLinksIsConverted) {
  const fs::path root = folder_ / "models--org--m", snapshot = root / "snapshots/abc";
  TinyModel().write(root / "blobs");
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    fs::create_directories(snapshot);
    fs::create_symlink(fs::path("../../blobs") / name, snapshot / name);
  }
  convert({.model = snapshot, .out = out_});
  EXPECT_FALSE(fs::is_symlink(out_ / "model.safetensors"));
  EXPECT_TRUE(same_inode(out_ / "model.safetensors", root / "blobs/model.safetensors"));
}

TEST_F(Convert, APlanWritesNothing) {
  TinyModel().write(model_);
  const auto before = test::listing(folder_.path());
  const ConvertPlan plan = plan_conversion({.model = model_, .out = out_, .dtype = Dtype::kF32});
  EXPECT_EQ(test::listing(folder_.path()), before);
  EXPECT_EQ(plan.files[0].action, FileAction::kRewrite);
  EXPECT_GT(plan.bytes_written, 2 * fs::file_size(model_ / "model.safetensors") - 20'000);
  EXPECT_GT(plan.peak_memory_bytes, 0u);
  EXPECT_EQ(to_json(plan)["files"][0]["action"], "rewrite");
}

TEST_F(Convert, AnInterruptLeavesNothing) {
  TinyModel().write(model_);
  const auto before = test::listing(folder_.path());
  // In a process of its own: the flag a signal sets stays set.
  const auto interrupted = [&] {
    watch_for_interrupts();
    const ConvertPlan plan = plan_conversion({.model = model_, .out = out_, .dtype = Dtype::kF32});
    std::raise(SIGTERM);
    try {
      run_conversion(plan);
    } catch (const Error& e) {
      std::exit(static_cast<int>(e.code()));
    }
    std::exit(0);
  };
  EXPECT_EXIT(interrupted(), testing::ExitedWithCode(130), "");
  EXPECT_EQ(test::listing(folder_.path()), before);
}

}  // namespace
}  // namespace liger
