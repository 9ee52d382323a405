#pragma once

#include <filesystem>
#include <string>

#include "distributed/ranks.h"
#include "liger/train/optimizer.h"
#include "liger/train/trainer.h"
#include "train/metrics.h"

namespace liger {

/// Writes what the run has made of the model into `dir`, which exists: a PEFT adapter, or a Hugging Face folder with
/// config.json, the tokenizer's files and model.safetensors in `dtype`.
void write_weights(const TrainingSetup& setup, at::ScalarType dtype, const std::filesystem::path& dir);

/// Adds the rest of a checkpoint: trainer.json, and the moments as optimizer.safetensors. Where ranks share these,
/// the others hand theirs over meanwhile, so that rank 0 holds one whole tensor at a time.
void write_state(const TrainingSetup& setup, const TrainState& state, const Metrics::Sizes& metrics,
                 const std::filesystem::path& dir);
void write_optimizer(const AdamW& optimizer, const Ranks& ranks, const std::filesystem::path& dir);
void hand_over_optimizer(const AdamW& optimizer, const Ranks& ranks);

/// Updates done when the checkpoint was written.
int64_t saved_step(const std::filesystem::path& dir);

/// Throws Error(kUsage) naming the first setting that was another one then and would change the run.
TrainState read_state(const std::filesystem::path& dir, const TrainingSetup& setup, Metrics::Sizes& metrics);
/// Brings the optimizers of all ranks to where they were after `steps` updates. `dir` is rank 0's; empty = nothing to
/// go on from.
void restore_optimizer(const std::filesystem::path& dir, AdamW& optimizer, const Ranks& ranks, int64_t steps);

/// For the other ranks: the state, without what only its writer needs; and a line for all that must be the same on
/// them.
std::string to_text(const TrainState& state);
TrainState state_from_text(const std::string& text);
std::string what_ranks_share(const TrainingSetup& setup);

}  // namespace liger
