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

class GradientBuckets;
class Metrics;
struct MetricsRow;
class Progress;
class Ranks;
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
  std::shared_ptr<CausalLM> teacher;  ///< with distill: the one named, or the base with softmax attention, with lora in
                                      ///< the model's memory
  std::optional<LoraConfig> lora;     ///< nothing = every parameter is trained
  /// What a recursive model brings along, where it is trained with every parameter.
  std::optional<LoraConfig> own_adapter;
  OrderedJson adapter_base;  ///< with lora: see liger/nn/adapter_base.h
  std::string data_sha256;   ///< of the training file
  int64_t steps_per_epoch = 0, total_steps = 0;

  /// Loads all but the model.
  static TrainingSetup load_data(const FinetuneOptions& options);
  /// What load_model() builds: the base's config.json with what the options change in it.
  ModelConfig model_config() const;
  /// With `checkpoint`, the weights that are trained come from that folder. Full-parameter training holds all weights
  /// in float32 (float64 if asked for), whatever they are stored in.
  void load_model(const std::filesystem::path& checkpoint = {});

  std::vector<NamedParameter> trainable() const;
  /// Parameters, adapters included, and, of these, trained ones; they follow from config.json and the options.
  struct Counts {
    int64_t all, trained;
  };
  Counts parameter_counts() const;
};

/// Everything but weights and moments that a run needs to go on exactly as if it had never stopped.
struct TrainState {
  int64_t step = 0;     ///< updates done
  int64_t epoch = 0;    ///< being read, from 0
  int64_t sample = 0;   ///< of its order, the next to read
  int64_t tokens = 0;   ///< read so far
  double seconds = 0;   ///< spent training
  double loss_sum = 0;  ///< of the tokens learned since the last row of the metrics
  int64_t loss_targets = 0;
  std::optional<double> last_loss;  ///< of the last row of the metrics
  int64_t evaluated_at = -1;        ///< updates done at the last validation
  std::optional<double> first_eval_loss, eval_loss, best_eval_loss;
  int64_t best_step = 0;
  int64_t sampled_at = -1;  ///< updates done when texts were last generated
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
///
/// Started by torchrun, mpirun or srun it is one of several ranks, which read the same samples in the same order as one
/// alone would: the micro-batches of an update are dealt to them in turn, their gradients are summed, and all make the
/// same update. Rank 0 writes the run's folder. Training every parameter, each holds a share of the optimizer's state.
/// A checkpoint fits any number of ranks.
class Trainer {
 public:
  /// Takes the run's folder for itself, finds the checkpoint to go on from, and loads everything.
  /// Throws Error(kLocked) if the folder holds a finished run or one that is not to be resumed.
  explicit Trainer(const FinetuneOptions& options);
  ~Trainer();

  /// Trains to the end and writes save.dir/final.
  /// Throws Error(kInterrupted) after a good save when a signal has come, and Error(kNonFinite) before an update with
  /// a loss or a gradient that is not a finite number. When another rank is lost, rank 0 saves if it has all it takes.
  FinetuneResult run();

  const TrainingSetup& setup() const { return *setup_; }
  /// This process is rank 0, whose result is the run's.
  bool first() const;

 private:
  void begin(const FinetuneOptions& options);
  void take_over_from_first();
  void train();
  bool sum_over_ranks(std::optional<double>& loss_sum) const;
  void share_updates() const;
  bool evaluation_due() const;
  bool checkpoint_due() const;
  bool sample_due() const;
  // False if a signal broke it off; then nothing has changed.
  bool evaluate();
  bool sample();
  bool write_samples();
  bool train_step();
  std::optional<double> accumulate(std::span<const int64_t> samples);
  struct Micro {
    int64_t index;  // in its update
    std::span<const int64_t> samples;
  };
  std::vector<Micro> own_micro_batches(std::span<const int64_t> samples) const;
  struct Loss {
    at::Tensor from, sum;  // what it was computed from, and the sum over the targets
  };
  Loss loss_of(const MicroBatch& batch) const;
  std::vector<at::Tensor> outputs_of(const Sequences& tokens) const;
  Loss loss_of_output(const at::Tensor& hidden, const at::Tensor& head, const MicroBatch& batch) const;
  double checked_loss(const Loss& loss, const Dataset& data, std::span<const int64_t> samples) const;
  double clip_gradients(std::span<const int64_t> samples);
  std::span<const int64_t> next_samples() const;
  void advance(int64_t samples);
  void log_step(double lr, double grad_norm);
  MetricsRow metrics_row() const;
  double elapsed() const;
  void save_checkpoint();
  [[noreturn]] void stop_by_signal();
  FinetuneResult finish();

  std::unique_ptr<Ranks> ranks_;
  std::unique_ptr<RunFolder> folder_;  // rank 0's, and so are metrics and progress
  std::unique_ptr<TrainingSetup> setup_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<GradientBuckets> gradients_;
  std::unique_ptr<Schedule> schedule_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Progress> progress_;
  TrainState state_;
  std::vector<int64_t> order_;               // of the samples in state_.epoch
  int64_t first_step_ = 0;                   // of this process
  double started_ = 0, seconds_before_ = 0;  // clock at its begin; what processes before it took
  double row_seconds_ = 0;                   // of updates since the last row of the metrics
  int64_t row_tokens_ = 0;
  double step_seconds_ = 0;  // of all updates of this process
  int64_t step_tokens_ = 0;
  int64_t saved_at_ = -1;
};

}  // namespace liger
