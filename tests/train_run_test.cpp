#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/train/dry_run.h"
#include "liger/train/trainer.h"
#include "run_files.h"
#include "train_test_util.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using test::read_options;
using test::slurp;
using test::tiny_run;

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override {
    test::write_tiny_model(folder_ / "model");
    test::write_text_rows(folder_ / "rows.jsonl", 40);
  }

  FinetuneResult train(const std::string& run, std::vector<std::string> assignments = {}) {
    return Trainer(read_options(tiny_run(folder_.path(), run), assignments)).run();
  }
  fs::path final_weights(const std::string& run) const {
    const fs::path result = folder_ / run / "final";
    return result /
           (fs::exists(result / "adapter_model.safetensors") ? "adapter_model.safetensors" : "model.safetensors");
  }
  std::vector<Json> metrics(const std::string& run) const { return test::metrics_without_clock(folder_ / run); }
  // With a manifest that fits.
  void edit_state(const fs::path& checkpoint, const std::function<void(Json&)>& edit) const {
    Json state = read_json(checkpoint / "trainer.json");
    edit(state);
    const fs::path copy = folder_ / "copy";
    fs::copy(checkpoint, copy, fs::copy_options::recursive);
    write_text_atomic(copy / "trainer.json", state.dump());
    fs::remove_all(checkpoint);
    AtomicDirectory again(checkpoint);
    for (const auto& entry : fs::directory_iterator(copy)) {
      if (entry.path().filename() != "MANIFEST.json") fs::copy(entry.path(), again.path() / entry.path().filename());
    }
    again.commit();
    fs::remove_all(copy);
  }
  fs::path event_file(const std::string& run) const { return test::event_file(folder_ / run); }
  test::Curves curves(const std::string& run) const { return test::curves_without_clock(folder_ / run); }
  static at::Tensor logits(const fs::path& model, const fs::path& adapter) {
    const at::NoGradGuard no_grad;
    LoadOptions options;
    options.adapter = adapter;
    const auto loaded = CausalLM::load(model, options);
    loaded->eval();
    return loaded->logits(loaded->hidden_states(Sequences({{0, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140}, {0, 5}})));
  }

  test::TemporaryFolder folder_;
};

TEST_F(TrainerTest, SameSeedSameBits) {
  const FinetuneResult a = train("a"), b = train("b");
  EXPECT_EQ(slurp(final_weights("a")), slurp(final_weights("b")));
  EXPECT_EQ(metrics("a"), metrics("b"));
  EXPECT_EQ(a.steps, 8);
  train("c", {"train.seed=1"});
  EXPECT_NE(slurp(final_weights("a")), slurp(final_weights("c")));
}

// Batches of 8 rows of different lengths, of which different shares are learned, read 8, 1 and 4 at a time: the same
// losses and the same weights after several updates, but for the order in which float32 numbers are added.
TEST_F(TrainerTest, AccumulationIsNormalisedByTokens) {
  std::string rows;
  for (int i = 0; i < 40; ++i) {
    const std::string prompt(1 + i * 7 % 23, 'p'), completion(1 + i * 11 % 37, static_cast<char>('a' + i % 20));
    rows += OrderedJson{{"prompt", prompt}, {"completion", completion}}.dump() + "\n";
  }
  write_text_atomic(folder_ / "rows.jsonl", rows);
  const auto run = [&](const std::string& dtype, int micro) {
    const std::string name = cat(dtype, "-", micro);
    train(name, {"data.format=completion", "data.pack=none", "train.batch_size=8", "train.lr=1e-3",
                 cat("train.micro_batch_size=", micro), "model.dtype=" + dtype, "lora.targets=all-linear"});
    return name;
  };
  for (const auto& [dtype, tolerance] : {std::pair("f32", 1e-6), std::pair("f64", 1e-12)}) {
    const std::string whole = run(dtype, 8);
    const auto expected = metrics(whole);
    const auto weights = load_tensors(final_weights(whole));
    for (const int micro : {1, 4}) {
      const std::string parts = run(dtype, micro);
      const auto actual = metrics(parts);
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        for (const char* key : {"loss", "grad_norm", "eval_loss"}) {
          if (expected[i][key].is_null()) continue;
          const double want = expected[i][key], got = actual[i][key];
          EXPECT_NEAR(got, want, tolerance * want) << key << " in row " << i << " of " << parts;
        }
      }
      for (const auto& [name, tensor] : load_tensors(final_weights(parts))) {
        const at::Tensor& want = weights.at(name);
        const double difference = (tensor - want).norm().item<double>() / want.norm().item<double>();
        EXPECT_LT(difference, tolerance) << name << " of " << parts;
      }
    }
  }
}

TEST_F(TrainerTest, ResumedRunIsTheUninterruptedOne) {
  // Dropout draws random numbers, an epoch ends within, and step 3 and 6 are saved.
  const std::vector<std::string> settings = {
      "lora.dropout=0.1",  "lora.dora=true", "lora.targets=all-linear", "lora.rank_pattern={o_proj: 3}",
      "lora.plus_ratio=4", "save.keep=9",    "train.scheduler=plateau", "train.plateau_patience=0",
      "log.every=2"};
  train("straight", settings);
  for (const char* checkpoint : {"ckpt-3", "ckpt-6"}) {
    // As if the process had been killed later on: what was logged after the checkpoint is written again.
    const std::string run = cat("resumed-", checkpoint);
    fs::create_directories(folder_ / run);
    const std::string events = event_file("straight").filename();
    for (const std::string& name : std::vector<std::string>{checkpoint, "metrics.jsonl", "metrics.csv", events}) {
      fs::copy(folder_ / "straight" / name, folder_ / run / name, fs::copy_options::recursive);
    }
    train(run, settings);
    EXPECT_EQ(slurp(final_weights("straight")), slurp(final_weights(run)));
    EXPECT_EQ(metrics("straight"), metrics(run));
    EXPECT_EQ(curves("straight"), curves(run));
    for (const char* file : {"optimizer.safetensors", "adapter_model.safetensors"}) {
      EXPECT_EQ(slurp(folder_ / "straight" / "ckpt-8" / file), slurp(folder_ / run / "ckpt-8" / file)) << file;
    }
  }
}

TEST_F(TrainerTest, TensorBoardDrawsWhatTheMetricsSay) {
  train("run");
  test::Curves expected;
  for (const Json& row : metrics("run")) {
    const auto add = [&](const char* tag, const char* key) {
      if (row[key].is_number()) expected[tag].push_back({row["current_steps"], row[key].get<float>()});
    };
    add("train/loss", "loss");
    add("eval/loss", "eval_loss");
    add("train/grad_norm", "grad_norm");
    if (!row["loss"].is_null()) add("train/lr", "lr");
  }
  EXPECT_EQ(curves("run"), expected);
  EXPECT_EQ(expected["train/loss"].size(), 8u);
  EXPECT_EQ(test::read_tfevents(slurp(event_file("run"))).at(0).version, "brain.Event:2");

  // A run that goes on in another folder, and one that is overwritten, have one file of their own.
  train("other", {"save.resume=" + (folder_ / "run" / "ckpt-3").string()});
  EXPECT_EQ(curves("other")["train/loss"].front().first, 4);
  train("run", {"save.overwrite=true", "save.resume=never"});
  EXPECT_EQ(curves("run"), expected);
  train("none", {"log.tensorboard=false"});
  for (const auto& entry : fs::directory_iterator(folder_ / "none")) {
    EXPECT_EQ(entry.path().filename().string().find("tfevents"), std::string::npos);
  }
}

TEST_F(TrainerTest, ACheckpointCannotNameAnEventFileElsewhere) {
  train("run", {"save.keep=9"});
  const fs::path victim = folder_ / "run" / "events.out.tfevents.x" / "victim";
  fs::create_directories(victim.parent_path());
  write_text_atomic(victim, "do not cut");
  const fs::path checkpoint = folder_ / "run" / "ckpt-3";
  edit_state(checkpoint, [](Json& state) { state["metrics"] = {{"events.out.tfevents.x/victim", 3}}; });
  for (const char* name : {"ckpt-6", "ckpt-8", "final"}) fs::remove_all(folder_ / "run" / name);
  train("run", {"save.keep=9"});
  EXPECT_EQ(slurp(victim), "do not cut");
}

TEST_F(TrainerTest, FullTrainingResumesToo) {
  const std::vector<std::string> settings = {"lora=null", "save.keep=9", "model.init=random", "train.lr=1e-3",
                                             "train.optimizer=adamw8bit"};
  train("straight", settings);
  const auto state = load_tensors(folder_ / "straight" / "ckpt-3" / "optimizer.safetensors");
  EXPECT_EQ(state.at("exp_avg.model.embed_tokens.weight").scalar_type(), at::kByte);
  auto resumed = settings;
  resumed.push_back("save.resume=" + (folder_ / "straight" / "ckpt-3").string());
  train("resumed", resumed);
  EXPECT_EQ(slurp(final_weights("straight")), slurp(final_weights("resumed")));
}

TEST_F(TrainerTest, ActivationCheckpointingMayBeTurnedOnWhenARunGoesOn) {
  std::vector<std::string> settings = {"lora.dropout=0.1", "save.keep=9"};
  train("straight", settings);
  settings.push_back("save.resume=" + (folder_ / "straight" / "ckpt-3").string());
  settings.push_back("train.activation_checkpointing=full");
  train("resumed", settings);
  EXPECT_EQ(slurp(final_weights("straight")), slurp(final_weights("resumed")));
}

TEST_F(TrainerTest, BrokenCheckpointIsSkipped) {
  const std::vector<std::string> settings = {"save.keep=9"};
  train("straight", settings);
  fs::copy(folder_ / "straight", folder_ / "run", fs::copy_options::recursive);
  fs::remove_all(folder_ / "run" / "final");
  std::ofstream(folder_ / "run" / "ckpt-8" / "trainer.json", std::ios::app) << " ";
  fs::remove(folder_ / "run" / "ckpt-6" / "MANIFEST.json");
  train("run", settings);
  EXPECT_EQ(slurp(final_weights("straight")), slurp(final_weights("run")));
  EXPECT_NO_THROW(verify_manifest(folder_ / "run" / "ckpt-8"));
}

TEST_F(TrainerTest, OtherSettingsAreNotResumed) {
  train("run", {"train.max_steps=3"});
  const auto error = [&](const std::string& assignment) -> std::string {
    try {
      train("run", {assignment});
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(error("train.seed=5").find("train.seed 0"), std::string::npos);
  EXPECT_NE(error("data.max_length=32").find("data.max_length 64"), std::string::npos);
  EXPECT_NE(error("lora.alpha=2").find("alpha"), std::string::npos);
  train("run");  // more steps are the same run
}

TEST_F(TrainerTest, ARunFromBeforeThereWasAKeyHadItsDefault) {
  train("run", {"train.max_steps=3"});
  edit_state(folder_ / "run" / "ckpt-3", [](Json& state) {
    for (const char* key : {"lora.dora", "lora.plus_ratio", "train.optimizer"}) state["settings"].erase(key);
  });
  EXPECT_THROW(train("run", {"lora.dora=true"}), Error);
  EXPECT_THROW(train("run", {"train.optimizer=adamw8bit"}), Error);
  train("run");
}

TEST_F(TrainerTest, OverfitsAFewLines) {
  write_text_atomic(folder_ / "rows.jsonl", "{\"text\": \"the cat sat on the mat\"}\n{\"text\": \"a dog ran\"}\n");
  const FinetuneResult result = train("run", {"lora=null", "data.val_size=0", "train.max_steps=60",
                                              "train.batch_size=2", "train.lr=1e-2", "save.every=0", "log.every=20"});
  EXPECT_LT(*result.loss, 0.2);
  EXPECT_GT(metrics("run").front()["loss"].get<double>(), 1.5);
}

TEST_F(TrainerTest, LoraLearnsAndReloadsWithEqualLogits) {
  Trainer trainer(read_options(tiny_run(folder_.path())));
  const FinetuneResult result = trainer.run();
  EXPECT_LT(*result.eval_loss, *result.first_eval_loss);
  EXPECT_EQ(*result.best_eval_loss, *result.eval_loss);
  const at::Tensor reloaded = logits(folder_ / "model", result.output);
  const at::NoGradGuard no_grad;
  CausalLM& model = *trainer.setup().model;
  model.eval();
  const Sequences tokens({{0, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140}, {0, 5}});
  EXPECT_TRUE(model.logits(model.hidden_states(tokens)).equal(reloaded));
  EXPECT_FALSE(reloaded.equal(logits(folder_ / "model", {})));
  EXPECT_TRUE(fs::exists(result.output / "README.md"));
  EXPECT_NO_THROW(verify_manifest(result.output));
}

TEST_F(TrainerTest, GoesOnFromAnAdapter) {
  const FinetuneResult first = train("first");
  const FinetuneResult second = train("second", {"model.adapter=" + first.output.string()});
  EXPECT_NEAR(*second.first_eval_loss, *first.eval_loss, 1e-6);
  EXPECT_THROW(train("third", {"model.adapter=" + first.output.string(), "lora.alpha=3"}), Error);
}

TEST_F(TrainerTest, FullTrainingWritesAWholeModelAsItIsStored) {
  test::write_tiny_model(folder_ / "model", /*liger=*/false, at::kBFloat16);
  const FinetuneResult result =
      train("run", {"lora=null", "model.attention=liger_gla", "model.window=5", "train.lr=1e-3"});
  const ModelConfig config = ModelConfig::read(result.output);
  ASSERT_TRUE(config.liger);
  EXPECT_EQ(config.liger->window, 5);
  EXPECT_EQ(CausalLM::load(result.output)->dtype(), at::kBFloat16);
  EXPECT_EQ(CausalLM::load(folder_ / "run" / "ckpt-8")->dtype(), at::kFloat);
  EXPECT_EQ(slurp(result.output / "tokenizer.json"), slurp(folder_ / "model" / "tokenizer.json"));
}

TEST_F(TrainerTest, FolderOfAnotherRunIsNotTouched) {
  train("run");
  const auto code = [&](std::vector<std::string> assignments) {
    try {
      train("run", std::move(assignments));
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::kInternal;
  };
  const std::string before = slurp(final_weights("run"));
  EXPECT_EQ(code({}), ErrorCode::kLocked);  // finished
  EXPECT_EQ(code({"save.resume=never"}), ErrorCode::kLocked);
  EXPECT_EQ(code({"save.resume=" + (folder_ / "run" / "ckpt-6").string()}), ErrorCode::kLocked);  // loses ckpt-8
  EXPECT_EQ(slurp(final_weights("run")), before);
  EXPECT_TRUE(fs::exists(folder_ / "run" / "ckpt-8"));
  train("run", {"save.overwrite=true", "train.seed=2"});
  EXPECT_NE(slurp(final_weights("run")), before);
  Trainer holder(read_options(tiny_run(folder_.path(), "other")));
  EXPECT_THROW(train("other"), Error);
}

TEST_F(TrainerTest, ResultLostAfterTheLastUpdateIsWrittenAgain) {
  train("run");
  const std::string weights = slurp(final_weights("run"));
  fs::remove(final_weights("run"));  // not whole any more
  EXPECT_EQ(train("run").steps, 8);
  EXPECT_EQ(slurp(final_weights("run")), weights);
  fs::remove_all(folder_ / "run" / "final");
  train("run");
  EXPECT_EQ(slurp(final_weights("run")), weights);
}

TEST_F(TrainerTest, MetricsOfARunThatFailedAtItsStartAreNoRun) {
  fs::create_directories(folder_ / "run");
  write_text_atomic(folder_ / "run" / "metrics.jsonl", "{}\n");
  EXPECT_EQ(train("run").steps, 8);
}

TEST_F(TrainerTest, KeepsTheNewestCheckpoints) {
  train("run", {"save.every=2", "save.keep=2"});
  EXPECT_FALSE(fs::exists(folder_ / "run" / "ckpt-4"));
  EXPECT_TRUE(fs::exists(folder_ / "run" / "ckpt-6"));
  EXPECT_TRUE(fs::exists(folder_ / "run" / "ckpt-8"));
}

TEST_F(TrainerTest, NonFiniteWeightsStopBeforeTheUpdate) {
  auto tensors = load_tensors(folder_ / "model" / "model.safetensors");
  at::Tensor bad = tensors.at("model.layers.1.mlp.up_proj.weight").clone();
  bad[3][4] = NAN;
  tensors["model.layers.1.mlp.up_proj.weight"] = bad;
  save_tensors(folder_ / "model" / "model.safetensors", tensors);
  for (const char* val_size : {"4", "0"}) {
    try {
      train(cat("run", val_size), {cat("data.val_size=", val_size)});
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kNonFinite);
      EXPECT_NE(std::string(e.what()).find("model.layers.1.mlp.up_proj.weight"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("rows.jsonl:"), std::string::npos) << e.what();
    }
    EXPECT_FALSE(fs::exists(folder_ / cat("run", val_size) / "final"));
  }
}

TEST_F(TrainerTest, DryRunWritesNothing) {
  const DryRun run = dry_run(read_options(tiny_run(folder_.path())));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  EXPECT_EQ(run.setup.total_steps, 8);
  ASSERT_TRUE(run.step && run.memory);
  EXPECT_GT(run.step->peak_memory_bytes, 0);
  EXPECT_FALSE(dry_run(read_options(tiny_run(folder_.path())), DryRunStep::kNever).step);
  EXPECT_EQ(run.setup.parameter_counts().trained, 2 * 4 * ((32 + 32) + 2 * (32 + 16)));
  const std::string text = to_text(run);
  EXPECT_NE(text.find("8 updates"), std::string::npos) << text;
  const OrderedJson json = to_json(run);
  EXPECT_EQ(json["first_samples"].size(), 2u);
  EXPECT_FALSE(json["first_samples"][0][0]["learned"]);  // BOS
  EXPECT_TRUE(json["first_samples"][0][1]["learned"]);
}

}  // namespace
}  // namespace liger
