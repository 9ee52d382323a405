#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "liger/io/json.h"
#include "liger/train/trainer.h"

namespace liger {

/// What a run would do, without a file that stays but the tokens in data.cache: everything is loaded and checked, and
/// one update is made on random tokens of the largest shape.
struct DryRun {
  TrainingSetup setup;
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
