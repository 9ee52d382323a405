#include "liger/train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "liger/core/dtype.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/io/log.h"
#include "liger/io/process.h"
#include "liger/ops/linear_cross_entropy.h"
#include "train/checkpoint.h"
#include "train/describe.h"
#include "train/metrics.h"
#include "train/model_card.h"
#include "train/run_folder.h"
#include "train/token_cache.h"

namespace liger {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool all_finite(const at::Tensor& tensor) { return at::isfinite(tensor).all().item<bool>(); }

/// The first tensor on the way to the loss that holds a NaN or an infinity.
std::string first_bad_tensor(const CausalLM& model, const at::Tensor& hidden) {
  for (const auto& item : model.named_parameters()) {
    if (!all_finite(item.value())) return cat("parameter '", item.key(), "'");
  }
  return all_finite(hidden) ? "the logits (all parameters are finite)" : "the hidden states (all parameters are finite)";
}

/// What the weights of a whole model are written in at the end: as asked for, else as the base is stored.
at::ScalarType final_dtype(const TrainingSetup& setup) {
  const std::string& asked = setup.options.model.dtype.value_or(setup.base_config.stored_dtype);
  return asked.empty() ? at::kFloat : scalar_type_from_string(asked);
}

/// What matters most first: a narrow terminal cuts the end off.
std::string progress_note(const MetricsRow& row) {
  char note[160];
  std::snprintf(note, sizeof note, "loss %.4f, %.0f tokens/s, %.2f GB, lr %.2e, grad norm %.3f", *row.loss,
                *row.tokens_per_second, static_cast<double>(peak_memory_bytes()) / 1e9, row.lr, *row.grad_norm);
  return note;
}

}  // namespace

Trainer::Trainer(const FinetuneOptions& options) : folder_(std::make_unique<RunFolder>(options.save)) {
  setup_ = std::make_unique<TrainingSetup>(TrainingSetup::load_data(options));
  if (folder_->has_result() && saved_step(folder_->checkpoint()) >= setup_->total_steps) folder_->restart_finished();
  setup_->load_model(folder_->checkpoint());
  const TrainOptions& train = options.train;
  optimizer_ = std::make_unique<AdamW>(setup_->trainable(),
                                       AdamWOptions{train.beta1, train.beta2, train.eps, train.weight_decay,
                                                    train.optimizer == OptimizerKind::kAdamW8bit});
  schedule_ = std::make_unique<Schedule>(train, setup_->total_steps);

  Metrics::Sizes metrics_sizes;
  if (!folder_->checkpoint().empty()) {
    state_ = read_state(folder_->checkpoint(), *setup_, *optimizer_, metrics_sizes);
    schedule_->restore(state_.schedule);
    log_info(cat("going on from ", folder_->checkpoint().string()));
  }
  first_step_ = state_.step;
  if (folder_->goes_on_here()) saved_at_ = state_.step;
  order_ = epoch_order(setup_->train->size(), static_cast<uint64_t>(train.seed), state_.epoch);
  folder_->open();
  setup_->tokens->keep();
  metrics_ = std::make_unique<Metrics>(folder_->path(), options.log, options.sample.has_value(), metrics_sizes);
  for (const std::string& line : describe(*setup_)) log_info(line);
}

Trainer::~Trainer() = default;

FinetuneResult Trainer::run() {
  const int64_t total = setup_->total_steps;
  progress_ = std::make_unique<Progress>("training", total, 10, first_step_);
  started_ = now();
  seconds_before_ = state_.seconds;
  while (true) {
    if (evaluation_due() && !evaluate()) stop_by_signal();
    if (sample_due() && !sample()) stop_by_signal();
    if (checkpoint_due()) save_checkpoint();
    if (state_.step == total) break;
    if (!train_step()) stop_by_signal();
  }
  return finish();
}

bool Trainer::train_step() {
  const double begin = now();
  const std::span<const int64_t> samples = next_samples();
  const at::Tensor random_before = random_state();
  int64_t tokens = 0;
  optimizer_->zero_grad();
  const std::optional<double> loss_sum = accumulate(samples, tokens);
  if (!loss_sum) {
    set_random_state(random_before);
    return false;
  }
  const double grad_norm = clip_gradients(samples);
  const double lr = schedule_->lr(state_.step);
  optimizer_->step(lr);

  for (const int64_t sample : samples) state_.loss_targets += setup_->train->targets(sample);
  state_.loss_sum += *loss_sum;
  state_.tokens += tokens;
  advance(static_cast<int64_t>(samples.size()));
  const double seconds = now() - begin;
  row_seconds_ += seconds;
  step_seconds_ += seconds;
  row_tokens_ += tokens;
  step_tokens_ += tokens;
  log_step(lr, grad_norm);
  return true;
}

/// The samples of the next update: fewer than a batch at the end of an epoch.
std::span<const int64_t> Trainer::next_samples() const {
  const auto count = std::min(setup_->options.train.batch_size, setup_->train->size() - state_.sample);
  return std::span(order_).subspan(state_.sample, count);
}

void Trainer::advance(int64_t samples) {
  ++state_.step;
  state_.sample += samples;
  if (state_.sample < setup_->train->size()) return;
  state_.sample = 0;
  ++state_.epoch;
  order_ = epoch_order(setup_->train->size(), static_cast<uint64_t>(setup_->options.train.seed), state_.epoch);
}

/// Gradients of the mean loss over the tokens learned in all samples, whatever micro-batches they are read in.
/// Returns the sum of the losses; nothing if a signal came in between.
std::optional<double> Trainer::accumulate(std::span<const int64_t> samples, int64_t& tokens) {
  const Dataset& data = *setup_->train;
  CausalLM& model = *setup_->model;
  int64_t targets = 0;
  for (const int64_t sample : samples) targets += data.targets(sample);
  model.train();
  double loss_sum = 0;
  const auto micro = static_cast<size_t>(setup_->options.train.micro_batch_size);
  for (size_t begin = 0; begin < samples.size(); begin += micro) {
    if (interrupted()) return {};
    const auto part = samples.subspan(begin, std::min(micro, samples.size() - begin));
    const MicroBatch batch = data.batch(part, model.device());
    const at::Tensor hidden = model.hidden_states(batch.tokens);
    const at::Tensor loss = linear_cross_entropy(hidden, model.head_weight(), batch.targets);
    loss_sum += checked_loss(hidden, loss, data, part);
    loss.div(static_cast<double>(targets)).backward();
    tokens += batch.tokens.tokens();
  }
  return loss_sum;
}

double Trainer::checked_loss(const at::Tensor& hidden, const at::Tensor& loss, const Dataset& data,
                             std::span<const int64_t> samples) const {
  const auto value = loss.item<double>();
  if (std::isfinite(value)) return value;
  fail(ErrorCode::kNonFinite, "update ", state_.step + 1, ": the loss is ", value, "; first bad tensor: ",
       first_bad_tensor(*setup_->model, hidden), "; rows ", describe_rows(data, samples),
       "; nothing was updated; look at these rows, or lower train.lr");
}

double Trainer::clip_gradients(std::span<const int64_t> samples) {
  const double norm = optimizer_->grad_norm();
  if (!std::isfinite(norm)) {
    const std::string bad = optimizer_->first_nonfinite_grad();
    fail(ErrorCode::kNonFinite, "update ", state_.step + 1, ": the gradient norm is ", norm, "; first bad tensor: ",
         bad.empty() ? "none, their norm overflows" : cat("gradient of '", bad, "'"), "; rows ",
         describe_rows(*setup_->train, samples), "; nothing was updated; look at these rows, or lower train.lr");
  }
  const double limit = setup_->options.train.max_grad_norm;
  if (limit > 0 && norm > limit) optimizer_->scale_grads(limit / norm);
  return norm;
}

bool Trainer::evaluation_due() const {
  if (!setup_->validation || state_.evaluated_at == state_.step) return false;
  const int64_t every = setup_->options.train.eval_every;
  return state_.step == 0 || state_.step == setup_->total_steps || (every > 0 && state_.step % every == 0);
}

bool Trainer::evaluate() {
  const at::NoGradGuard no_grad;
  const Dataset& data = *setup_->validation;
  CausalLM& model = *setup_->model;
  model.eval();
  std::vector<int64_t> all(data.size());
  std::iota(all.begin(), all.end(), 0);
  const auto micro = static_cast<size_t>(setup_->options.train.micro_batch_size);
  double sum = 0;
  for (size_t begin = 0; begin < all.size(); begin += micro) {
    if (interrupted()) return false;
    const auto part = std::span<const int64_t>(all).subspan(begin, std::min(micro, all.size() - begin));
    const MicroBatch batch = data.batch(part, model.device());
    const at::Tensor hidden = model.hidden_states(batch.tokens);
    sum += checked_loss(hidden, linear_cross_entropy(hidden, model.head_weight(), batch.targets), data, part);
  }
  const double loss = sum / static_cast<double>(data.counts().targets);
  state_.evaluated_at = state_.step;
  state_.eval_loss = loss;
  if (state_.step == 0) {
    state_.first_eval_loss = loss;
  } else {
    schedule_->validated(loss);
  }
  if (!state_.best_eval_loss || loss < *state_.best_eval_loss) {
    state_.best_eval_loss = loss;
    state_.best_step = state_.step;
  }
  MetricsRow row = metrics_row();
  row.eval_loss = loss;
  metrics_->add(row);
  log_info(cat("update ", state_.step, ": validation loss ", loss, ", best ", *state_.best_eval_loss, " at update ",
               state_.best_step));
  return true;
}

bool Trainer::sample_due() const {
  const std::optional<SampleOptions>& sample = setup_->options.sample;
  if (!sample || state_.sampled_at == state_.step) return false;
  return state_.step % sample->every == 0 || state_.step == setup_->total_steps;
}

bool Trainer::sample() {
  std::vector<TextSample> samples;
  try {
    samples = draw_samples(*setup_->model, *setup_->tokenizer, *setup_->options.sample);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kCancelled) return false;
    if (e.code() != ErrorCode::kBadInput) throw;
    fail(ErrorCode::kNonFinite, "update ", state_.step, ": ", e.what());  // the weights make no probabilities any more
  }
  metrics_->add(state_.step, samples);
  state_.sampled_at = state_.step;
  for (const TextSample& sample : samples) {
    log_info(cat("update ", state_.step, ": '", detail::printable(sample.prompt, 40), "' goes on '",
                 detail::printable(sample.text, 120), "'"));
  }
  return true;
}

/// What every row says; losses and rates are added by who has them.
MetricsRow Trainer::metrics_row() const {
  MetricsRow row;
  row.current_steps = state_.step;
  row.total_steps = setup_->total_steps;
  row.lr = schedule_->lr(std::max<int64_t>(0, state_.step - 1));
  row.epoch = static_cast<double>(state_.epoch) +
              static_cast<double>(state_.sample) / static_cast<double>(setup_->train->size());
  row.elapsed_seconds = elapsed();
  if (state_.step > first_step_) {
    const double a_step = (now() - started_) / static_cast<double>(state_.step - first_step_);
    row.remaining_seconds = a_step * static_cast<double>(setup_->total_steps - state_.step);
  }
  row.tokens = state_.tokens;
  return row;
}

double Trainer::elapsed() const { return seconds_before_ + now() - started_; }

void Trainer::log_step(double lr, double grad_norm) {
  const int64_t every = setup_->options.log.every;
  if (state_.step % every != 0 && state_.step != setup_->total_steps) return;
  MetricsRow row = metrics_row();
  row.lr = lr;
  row.loss = state_.loss_sum / static_cast<double>(state_.loss_targets);
  row.grad_norm = grad_norm;
  row.tokens_per_second = static_cast<double>(row_tokens_) / row_seconds_;
  metrics_->add(row);
  state_.last_loss = row.loss;
  state_.loss_sum = 0;
  state_.loss_targets = row_tokens_ = 0;
  row_seconds_ = 0;
  progress_->update(state_.step, progress_note(row));
}

bool Trainer::checkpoint_due() const {
  const int64_t every = setup_->options.save.every;
  if (every == 0 || state_.step == first_step_ || saved_at_ == state_.step) return false;
  return state_.step % every == 0 || state_.step == setup_->total_steps;
}

void Trainer::save_checkpoint() {
  metrics_->sync();
  state_.seconds = elapsed();
  state_.schedule = schedule_->state();
  AtomicDirectory out(folder_->checkpoint_path(state_.step), /*overwrite=*/true);
  write_weights(*setup_, setup_->model->dtype(), out.path());
  write_state(*setup_, state_, *optimizer_, metrics_->sizes(), out.path());
  out.commit();
  saved_at_ = state_.step;
  folder_->prune();
}

void Trainer::stop_by_signal() {
  if (saved_at_ != state_.step) save_checkpoint();
  fail(ErrorCode::kInterrupted, "stopped by a signal after update ", state_.step, " of ", setup_->total_steps,
       "; saved in ", folder_->checkpoint_path(state_.step).string(),
       "; to go on, run the same with save.resume auto");
}

FinetuneResult Trainer::finish() {
  progress_->finish();
  metrics_->sync();
  FinetuneResult result;
  result.steps = state_.step;
  result.tokens = state_.tokens;
  result.loss = state_.last_loss;
  result.first_eval_loss = state_.first_eval_loss;
  result.eval_loss = state_.eval_loss;
  result.best_eval_loss = state_.best_eval_loss;
  result.best_step = state_.best_step;
  result.seconds = elapsed();
  if (step_tokens_ > 0) result.tokens_per_second = static_cast<double>(step_tokens_) / step_seconds_;
  result.peak_memory_bytes = peak_memory_bytes();
  result.output = folder_->path() / "final";
  AtomicDirectory out(result.output, /*overwrite=*/true);
  write_weights(*setup_, final_dtype(*setup_), out.path());
  write_text_atomic(out.path() / "README.md", model_card(*setup_, result));
  out.commit();
  return result;
}

}  // namespace liger
