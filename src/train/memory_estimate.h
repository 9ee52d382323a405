#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>

#include "liger/core/model_config.h"
#include "liger/train/dry_run.h"

namespace liger {

/// What an update reads at a time, and what is known of the weights it begins with.
struct UpdateShape {
  int64_t rows = 1, length = 0;  ///< of a micro-batch: sequences, tokens of each
  int64_t micro_batches = 1;
  std::optional<c10::ScalarType> stored = {};  ///< of the weight files; nothing = there are none yet, or new weights
};

/// Why memory cannot be foretold for such a run: "" if it can. The closed form is that of the compiled CPU code.
std::string not_estimated(const ModelConfig& config, const FinetuneOptions& options, const UpdateShape& shape);

/// `config`: as TrainingSetup::model_config(). `process`: what a process that has done such work on a model without
/// weight has resident.
MemoryEstimate estimate_memory(const ModelConfig& config, const FinetuneOptions& options, const UpdateShape& shape,
                               int64_t process);

/// Of a checkpoint on disk: what is trained, with its moments.
int64_t checkpoint_bytes(const ModelConfig& config, const FinetuneOptions& options);

}  // namespace liger
