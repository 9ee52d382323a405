#pragma once

#include <cstdint>
#include <limits>

#include "liger/train/options.h"

namespace liger {

/// The learning rate of every update. After `warmup_steps` of linear rise to lr:
///   constant  lr
///   cosine    min_lr + (lr - min_lr) (1 + cos(pi p)) / 2,  p = share of the steps after the warm-up
///   linear    lr + (min_lr - lr) p
///   plateau   lr, multiplied by plateau_factor (down to min_lr) when more than plateau_patience validations in a row
///             were not better than the best loss by a ten-thousandth: torch's ReduceLROnPlateau with its defaults
class Schedule {
 public:
  /// What plateau remembers, to be saved with a checkpoint.
  struct State {
    double factor = 1.0;  ///< of lr
    double best = std::numeric_limits<double>::infinity();
    int64_t bad_validations = 0;
  };

  Schedule(const TrainOptions& options, int64_t total_steps);
  /// The rate of update `step`, from 0.
  double lr(int64_t step) const;
  /// Tells of a validation loss during training.
  void validated(double loss);

  const State& state() const { return state_; }
  void restore(const State& state) { state_ = state; }

 private:
  TrainOptions options_;
  int64_t total_steps_;
  State state_;
};

}  // namespace liger
