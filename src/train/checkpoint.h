#pragma once

#include <filesystem>

#include "liger/train/optimizer.h"
#include "liger/train/trainer.h"
#include "train/metrics.h"

namespace liger {

/// Writes what the run has made of the model into `dir`, which exists: a PEFT adapter, or a Hugging Face folder with
/// config.json, the tokenizer's files and model.safetensors in `dtype`.
void write_weights(const TrainingSetup& setup, at::ScalarType dtype, const std::filesystem::path& dir);

/// Adds the rest of a checkpoint: optimizer.safetensors (moments, random generator) and trainer.json.
void write_state(const TrainingSetup& setup, const TrainState& state, const AdamW& optimizer,
                 const Metrics::Sizes& metrics, const std::filesystem::path& dir);

/// Updates done when the checkpoint was written.
int64_t saved_step(const std::filesystem::path& dir);

/// Brings optimizer and random generator to where they were; returns the rest.
/// Throws Error(kUsage) naming the first setting that was another one then and would change the run.
TrainState read_state(const std::filesystem::path& dir, const TrainingSetup& setup, AdamW& optimizer,
                      Metrics::Sizes& metrics);

/// State of the random generator that dropout draws from.
at::Tensor random_state();
void set_random_state(const at::Tensor& state);

}  // namespace liger
