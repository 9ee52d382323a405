#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "liger/io/json.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "liger/train/dataset.h"
#include "liger/train/optimizer.h"
#include "liger/train/options.h"
#include "liger/train/schedule.h"

namespace liger {

class Metrics;
struct MetricsRow;
class Progress;
class RunFolder;
class TokenCache;

/// What a run works on, loaded and checked; nothing is written yet but the tokens in data.cache.
struct TrainingSetup {
  FinetuneOptions options;
  std::filesystem::path base;  ///< folder of the model
  ModelConfig base_config;     ///< as that folder has it
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<TokenCache> tokens;                ///< what the datasets are read from
  std::shared_ptr<const Dataset> train, validation;  ///< validation: null = none
  std::shared_ptr<CausalLM> model;
  std::optional<LoraConfig> lora;  ///< nothing = every parameter is trained
  OrderedJson adapter_base;        ///< with lora: see liger/nn/adapter_base.h
  std::string data_sha256;         ///< of the training file
  int64_t steps_per_epoch = 0, total_steps = 0;

  /// Loads all but the model.
  static TrainingSetup load_data(const FinetuneOptions& options);
  /// With `checkpoint`, the weights that are trained come from that folder. Full-parameter training holds all weights
  /// in float32 (float64 if asked for), whatever they are stored in.
  void load_model(const std::filesystem::path& checkpoint = {});

  std::vector<NamedParameter> trainable() const;
  /// Parameters of the model and, of these, trained ones.
  struct Counts {
    int64_t all, trained;
  };
  Counts parameter_counts() const;
};

/// Everything but weights and moments that a run needs to go on exactly as if it had never stopped.
struct TrainState {
  int64_t step = 0;            ///< updates done
  int64_t epoch = 0;           ///< being read, from 0
  int64_t sample = 0;          ///< of its order, the next to read
  int64_t tokens = 0;          ///< read so far
  double seconds = 0;          ///< spent training
  double loss_sum = 0;         ///< of the tokens learned since the last row of the metrics
  int64_t loss_targets = 0;
  std::optional<double> last_loss;  ///< of the last row of the metrics
  int64_t evaluated_at = -1;   ///< updates done at the last validation
  std::optional<double> first_eval_loss, eval_loss, best_eval_loss;
  int64_t best_step = 0;
  int64_t sampled_at = -1;     ///< updates done when texts were last generated
  Schedule::State schedule;
};

struct FinetuneResult {
  int64_t steps = 0, tokens = 0;
  std::optional<double> loss;  ///< of the last row of the metrics
  std::optional<double> first_eval_loss, eval_loss, best_eval_loss;
  int64_t best_step = 0;
  double seconds = 0, tokens_per_second = 0;
  int64_t peak_memory_bytes = 0;
  std::filesystem::path output;  ///< the PEFT adapter or Hugging Face folder
};

/// Fine-tunes a model: one update after the other, with validations, metrics and checkpoints in between.
/// The same seed gives the same bits at the same number of threads, also over a stop and a resumption.
class Trainer {
 public:
  /// Takes the run's folder for itself, finds the checkpoint to go on from, and loads everything.
  /// Throws Error(kLocked) if the folder holds a finished run or one that is not to be resumed.
  explicit Trainer(const FinetuneOptions& options);
  ~Trainer();

  /// Trains to the end and writes save.dir/final.
  /// Throws Error(kInterrupted) after a good save when a signal has come, and Error(kNonFinite) before an update with
  /// a loss or a gradient that is not a finite number.
  FinetuneResult run();

  const TrainingSetup& setup() const { return *setup_; }

 private:
  bool evaluation_due() const;
  bool checkpoint_due() const;
  bool sample_due() const;
  // False if a signal broke it off; then nothing has changed.
  bool evaluate();
  bool sample();
  bool train_step();
  std::optional<double> accumulate(std::span<const int64_t> samples, int64_t& tokens);
  double checked_loss(const at::Tensor& hidden, const at::Tensor& loss, const Dataset& data,
                      std::span<const int64_t> samples) const;
  double clip_gradients(std::span<const int64_t> samples);
  std::span<const int64_t> next_samples() const;
  void advance(int64_t samples);
  void log_step(double lr, double grad_norm);
  MetricsRow metrics_row() const;
  double elapsed() const;
  void save_checkpoint();
  [[noreturn]] void stop_by_signal();
  FinetuneResult finish();

  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<TrainingSetup> setup_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Schedule> schedule_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Progress> progress_;
  TrainState state_;
  std::vector<int64_t> order_;  // of the samples in state_.epoch
  int64_t first_step_ = 0;      // of this process
  double started_ = 0, seconds_before_ = 0;  // clock at its begin; what processes before it took
  double row_seconds_ = 0;      // of updates since the last row of the metrics
  int64_t row_tokens_ = 0;
  double step_seconds_ = 0;     // of all updates of this process
  int64_t step_tokens_ = 0;
  int64_t saved_at_ = -1;
};

}  // namespace liger
