#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "liger/io/json.h"
#include "liger/train/trainer.h"

namespace liger {

/// Memory a run will need at its peak, in bytes; an estimate from the shapes alone.
struct MemoryEstimate {
  int64_t weights = 0;
  int64_t gradients = 0;    ///< and the optimizer's moments
  int64_t activations = 0;  ///< kept for the backward pass of one micro-batch
  int64_t loss = 0;         ///< blocks of logits
  int64_t process = 0;      ///< libraries, tokenizer, data
  int64_t total() const { return weights + gradients + activations + loss + process; }
};
MemoryEstimate estimate_memory(const TrainingSetup& setup);

/// What a run would do, without writing a file: everything is loaded and checked, and one update is made on random
/// tokens of the largest shape.
struct DryRun {
  TrainingSetup setup;
  MemoryEstimate memory;
  int64_t checkpoint_bytes = 0;  ///< of one; save.keep + 2 of them exist at a time
  double step_seconds = 0;       ///< of one update, all its micro-batches
  int64_t peak_memory_bytes = 0; ///< of this process, that update included
};
DryRun dry_run(const FinetuneOptions& options);

/// The same to be read: trainable share, samples and updates, memory, disk, and the first tokens of the first two
/// samples beside what is learned of them.
std::string to_text(const DryRun& run);
OrderedJson to_json(const DryRun& run);

}  // namespace liger
