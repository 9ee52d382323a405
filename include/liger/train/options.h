#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "liger/core/backend.h"
#include "liger/io/chat_template.h"
#include "liger/io/json.h"
#include "liger/io/settings.h"
#include "liger/nn/lora_config.h"
#include "liger/ops/linear_distillation.h"

namespace liger {

// The settings of a fine-tuning run, section by section as in the configuration file. The defaults are the
// reference's recipe for Liger-GLA where it has one. What each key means is said once, in the table of options.cpp
// that reads, prints and documents them.

enum class Init { kPretrained, kRandom };
enum class Attention { kAsConfigured, kSoftmax, kLigerGla };
struct ModelOptions {
  std::string path;
  std::optional<std::string> adapter;
  Init init = Init::kPretrained;
  std::optional<std::string> dtype;
  std::string device = "cpu";
  Backend backend = Backend::kAuto;
  Attention attention = Attention::kAsConfigured;
  std::optional<int64_t> window, sinks;
  std::optional<double> mix, gate_divisor;
};

struct LoraOptions : LoraConfig {
  bool own = false;
  double plus_ratio = 1.0, mixer_ratio = 1.0;
};

enum class DataFormat { kAlpaca, kCompletion, kText, kChat, kSharegpt };
enum class Packing { kConcat, kNone };
enum class OverLength { kError, kTruncate, kDrop, kSplit };
struct DataOptions {
  std::string train;
  std::optional<std::string> val;
  int64_t val_size = 200;
  DataFormat format = DataFormat::kAlpaca;
  ChatTemplate chat_template = ChatTemplate::kFromTokenizer;
  int64_t max_length = 1024;
  Packing pack = Packing::kConcat;
  OverLength over_length = OverLength::kError;
  std::optional<std::string> cache;
};

enum class OptimizerKind { kAdamW, kAdamW8bit };
enum class SchedulerKind { kConstant, kCosine, kLinear, kPlateau };
enum class OnNonfinite { kStop };
enum class ActivationCheckpointing { kNone, kFull };
struct TrainOptions {
  int64_t epochs = 2;
  std::optional<int64_t> max_steps;
  int64_t batch_size = 8;
  int64_t micro_batch_size = 1;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  double lr = 1e-3;
  double weight_decay = 0.01;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  SchedulerKind scheduler = SchedulerKind::kPlateau;
  int64_t warmup_steps = 0;
  double min_lr = 1e-5;
  double plateau_factor = 0.1;
  int64_t plateau_patience = 10;
  double max_grad_norm = 1.0;
  int64_t seed = 0;
  int64_t eval_every = 200;
  OnNonfinite on_nonfinite = OnNonfinite::kStop;
  int64_t ddp_timeout = 1800;
};

struct SaveOptions {
  std::string dir;
  int64_t every = 1000;
  int64_t keep = 3;
  std::string resume = "auto";
  bool overwrite = false;
};

struct LogOptions {
  int64_t every = 1;
  bool jsonl = true;
  bool csv = true;
  bool tensorboard = true;
  bool svg = true;
};

struct SampleOptions {
  std::vector<std::string> prompts;
  int64_t every = 200;
  int64_t max_new_tokens = 64;
  double temperature = 0;
};

struct DistillOptions : Distillation {
  std::optional<std::string> teacher;
  int64_t attention_steps = 0;
};

struct ExitOptions {
  double weight = 0.1, distill = 0.5;
};

struct FinetuneOptions {
  ModelOptions model;
  std::optional<LoraOptions> lora = LoraOptions{};  ///< nothing = every parameter is trained
  DataOptions data;
  TrainOptions train;
  std::optional<DistillOptions> distill;  ///< nothing = the targets alone are learned
  std::optional<ExitOptions> exits;       ///< nothing = only the last loop's output is learned
  SaveOptions save;
  LogOptions log;
  std::optional<SampleOptions> sample;  ///< nothing = no texts
};

/// Reads a whole configuration. Throws Error(kUsage) with the place of the first key that is unknown, missing, of
/// the wrong type, out of range or in contradiction to another.
FinetuneOptions read_finetune_options(const Settings& settings);

/// Every key with what it accepts, its default and its meaning: a table in Markdown for each section.
std::string options_table();

/// The configuration with every key, as YAML with what each key means beside it; reading it gives the same options.
std::string to_yaml(const FinetuneOptions& options);
OrderedJson to_json(const FinetuneOptions& options);

}  // namespace liger
