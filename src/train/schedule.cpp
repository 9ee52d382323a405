#include "liger/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace liger {

Schedule::Schedule(const TrainOptions& options, int64_t total_steps) : options_(options), total_steps_(total_steps) {}

double Schedule::lr(int64_t step) const {
  const TrainOptions& o = options_;
  if (step < o.warmup_steps) return o.lr * static_cast<double>(step + 1) / static_cast<double>(o.warmup_steps);
  const auto decaying = static_cast<double>(std::max<int64_t>(1, total_steps_ - o.warmup_steps));
  const double share = std::min(1.0, static_cast<double>(step - o.warmup_steps) / decaying);
  switch (o.scheduler) {
    case SchedulerKind::kCosine: return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1.0 + std::cos(std::numbers::pi * share));
    case SchedulerKind::kLinear: return o.lr + (o.min_lr - o.lr) * share;
    case SchedulerKind::kPlateau: return std::max(o.min_lr, o.lr * state_.factor);
    case SchedulerKind::kConstant: break;
  }
  return o.lr;
}

void Schedule::validated(double loss) {
  if (options_.scheduler != SchedulerKind::kPlateau) return;
  constexpr double kThreshold = 1e-4;
  if (loss < state_.best * (1.0 - kThreshold)) {
    state_.best = loss;
    state_.bad_validations = 0;
  } else if (++state_.bad_validations > options_.plateau_patience) {
    state_.factor *= options_.plateau_factor;
    state_.bad_validations = 0;
  }
}

}  // namespace liger
