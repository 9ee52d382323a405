#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "liger/io/json.h"
#include "liger/train/trainer.h"

namespace liger {

/// Whether an update is made: where it takes seconds, never, or in any case.
enum class DryRunStep { kIfQuick, kNever, kAlways };

/// Bytes of memory that training takes on the CPU, by what they are for.
struct MemoryEstimate {
  int64_t weights = 0, adapters = 0, gradients = 0, moments = 0;
  int64_t activations = 0;  ///< what a forward pass keeps for its backward pass
  int64_t temporaries = 0;  ///< the most that is there beside these
  int64_t process = 0;      ///< code, tokenizer, data
  int64_t peak = 0;         ///< not all of the above are there at a time
  std::string peak_at;
};

/// What a run would do, without a file that stays but the tokens in data.cache: data are loaded and checked, the
/// weights if there are any, and memory and disk foretold from the shapes, without the model. Then, as asked for, the
/// model is loaded and one update made on random tokens of the largest shape, with nothing else.
struct DryRun {
  TrainingSetup setup;
  std::optional<MemoryEstimate> memory;  ///< nothing where it cannot be foretold: `not_estimated` says why
  std::string not_estimated;
  int64_t checkpoint_bytes = 0;  ///< of one, moments included; save.keep + 2 of them exist at a time
  int64_t token_bytes = 0;       ///< of the token cache
  struct Step {
    double seconds = 0;             ///< of one update, all its micro-batches
    int64_t peak_memory_bytes = 0;  ///< of this process, that update included
  };
  std::optional<Step> step;
};
DryRun dry_run(const FinetuneOptions& options, DryRunStep step = DryRunStep::kIfQuick);

/// The same to be read: trainable share, samples and updates, memory, disk, time if it was measured, and the first
/// tokens of the first two samples beside what is learned of them.
std::string to_text(const DryRun& run);
OrderedJson to_json(const DryRun& run);

}  // namespace liger
