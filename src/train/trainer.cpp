#include "liger/train/trainer.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "distributed/gradient_buckets.h"
#include "distributed/ranks.h"
#include "io/text.h"
#include "liger/core/device.h"
#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/io/log.h"
#include "liger/io/process.h"
#include "liger/nn/attention_error.h"
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
  return all_finite(hidden) ? "the logits (all parameters are finite)"
                            : "the hidden states (all parameters are finite)";
}

/// What the weights of a whole model are written in at the end: as asked for, else as the base is stored.
at::ScalarType final_dtype(const TrainingSetup& setup) {
  const std::string& asked = setup.options.model.dtype.value_or(setup.base_config.stored_dtype);
  return asked.empty() ? at::kFloat : scalar_type_from_string(asked);
}

constexpr const char* kStartAgain = "; to go on, start all ranks again with save.resume auto";

/// What matters most first: a narrow terminal cuts the end off.
std::string progress_note(const MetricsRow& row) {
  char note[160];
  std::snprintf(note, sizeof note, "loss %.4f, %.0f tokens/s, %.2f GB, lr %.2e, grad norm %.3f", *row.loss,
                *row.tokens_per_second, static_cast<double>(peak_memory_bytes()) / 1e9, row.lr, *row.grad_norm);
  return note;
}

/// Seeds what the forward pass of a micro-batch draws from: a function of its place in the run alone, so that it draws
/// the same after a resumption, and on whatever rank it is computed. The mixing is splitmix64's.
void seed_micro_batch(int64_t seed, int64_t step, int64_t index) {
  uint64_t mixed = 0;
  for (const int64_t part : {seed, step, index}) {
    mixed = (mixed ^ static_cast<uint64_t>(part)) + 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    mixed ^= mixed >> 31;
  }
  at::manual_seed(mixed);
}

std::unique_ptr<Ranks> join(const Launch& launch, const FinetuneOptions& options) {
  const int64_t micro_batches = options.train.batch_size / options.train.micro_batch_size;
  LIGER_CHECK_USAGE(micro_batches >= launch.size, "train.batch_size ", options.train.batch_size, " is ", micro_batches,
                    " micro-batches of ", options.train.micro_batch_size, ", fewer than the ", launch.size,
                    " ranks that share an update; lower train.micro_batch_size");
  return std::make_unique<Ranks>(launch, device_from_string(options.model.device),
                                 std::chrono::seconds(options.train.ddp_timeout));
}

}  // namespace

Trainer::Trainer(const FinetuneOptions& options) {
  const Launch launch = read_launch();
  FinetuneOptions ours = options;
  // Of the processes on a machine each takes the GPU of its number.
  if (launch.size > 1 && ours.model.device == "cuda") ours.model.device += cat(":", launch.local_rank);
  ranks_ = join(launch, ours);
  ranks_->guard([&] { begin(ours); });
}

Trainer::~Trainer() = default;

bool Trainer::first() const { return ranks_->first(); }

void Trainer::begin(const FinetuneOptions& options) {
  std::filesystem::path checkpoint;
  // The others wait until rank 0 knows that the run can begin, and has put the tokens where they are found.
  if (!first()) ranks_->broadcast("");
  if (first()) folder_ = std::make_unique<RunFolder>(options.save);
  setup_ = std::make_unique<TrainingSetup>(TrainingSetup::load_data(options));
  if (first()) {
    if (folder_->has_result() && saved_step(folder_->checkpoint()) >= setup_->total_steps) folder_->restart_finished();
    checkpoint = folder_->checkpoint();
  }
  setup_->load_model(checkpoint);

  const TrainOptions& train = options.train;
  const bool shared_state = !setup_->lora;
  optimizer_ = std::make_unique<AdamW>(
      setup_->trainable(), AdamWOptions{train.beta1, train.beta2, train.eps, train.weight_decay,
                                        train.optimizer == OptimizerKind::kAdamW8bit, shared_state ? ranks_->rank() : 0,
                                        shared_state ? ranks_->size() : 1});
  std::vector<at::Tensor> parameters;
  for (const NamedParameter& parameter : optimizer_->parameters()) parameters.push_back(parameter.value);
  gradients_ = std::make_unique<GradientBuckets>(parameters, *ranks_);
  schedule_ = std::make_unique<Schedule>(train, setup_->total_steps);

  Metrics::Sizes metrics_sizes;
  if (!checkpoint.empty()) {
    state_ = read_state(checkpoint, *setup_, metrics_sizes);
    if (folder_->goes_on_here()) saved_at_ = state_.step;
    log_info(cat("going on from ", checkpoint.string()));
  }
  if (first()) {
    folder_->open();
    setup_->tokens->keep();
    metrics_ = std::make_unique<Metrics>(folder_->path(), options.log, options.sample.has_value(), metrics_sizes);
    ranks_->broadcast("");
    for (const std::string& line : describe(*setup_)) log_info(line);
  }
  if (ranks_->size() > 1) take_over_from_first();
  const at::NoGradGuard no_grad;
  for (const at::Tensor& parameter : parameters) ranks_->broadcast(parameter);
  restore_optimizer(checkpoint, *optimizer_, *ranks_, state_.step);
  schedule_->restore(state_.schedule);
  first_step_ = state_.step;
  order_ = epoch_order(setup_->train->size(), static_cast<uint64_t>(train.seed), state_.epoch);
}

/// All ranks must be set up alike, and begin where rank 0 does.
void Trainer::take_over_from_first() {
  if (first()) {
    log_info(cat(ranks_->size(), " ranks"));
  } else {
    setup_->tokens->keep();
  }
  ranks_->check_same(what_ranks_share(*setup_));
  state_ = state_from_text(ranks_->broadcast(to_text(state_)));
  saved_at_ = std::stoll(ranks_->broadcast(cat(saved_at_)));
}

FinetuneResult Trainer::run() {
  try {
    ranks_->guard([this] { train(); });
  } catch (const LostRank& e) {
    // No rank makes an update before all gradients are summed: what rank 0 has is the last update, whole. Where the
    // optimizer's state is shared out, a part of it is lost.
    if (!first() || !setup_->lora) throw LostRank(cat(e.what(), kStartAgain));
    if (saved_at_ != state_.step) save_checkpoint();
    throw LostRank(cat(e.what(), "; saved in ", folder_->checkpoint_path(state_.step).string(), kStartAgain));
  }
  return finish();
}

void Trainer::train() {
  const int64_t total = setup_->total_steps;
  if (first()) progress_ = std::make_unique<Progress>("training", total, 10, first_step_);
  started_ = now();
  seconds_before_ = state_.seconds;
  while (true) {
    if (evaluation_due() && !evaluate()) stop_by_signal();
    if (sample_due() && !sample()) stop_by_signal();
    if (checkpoint_due()) save_checkpoint();
    if (state_.step == total) break;
    if (!train_step()) stop_by_signal();
  }
}

bool Trainer::train_step() {
  const double begin = now();
  const std::span<const int64_t> samples = next_samples();
  gradients_->begin();
  std::optional<double> loss_sum = accumulate(samples);
  gradients_->finish();
  if (!sum_over_ranks(loss_sum)) return false;
  const double grad_norm = clip_gradients(samples);
  const double lr = schedule_->lr(state_.step);
  optimizer_->step(lr);
  share_updates();

  int64_t tokens = 0;
  for (const int64_t sample : samples) {
    state_.loss_targets += setup_->train->targets(sample);
    tokens += setup_->train->tokens(sample);
  }
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

/// False if a signal broke off any rank.
bool Trainer::sum_over_ranks(std::optional<double>& loss_sum) const {
  if (ranks_->size() == 1) return loss_sum.has_value();
  const at::Tensor told =
      at::tensor({loss_sum.value_or(0), loss_sum ? 0.0 : 1.0}, at::kDouble).to(setup_->model->device());
  ranks_->sum(told);
  loss_sum = told[0].item<double>();
  return told[1].item<double>() == 0;
}

/// Every rank takes over what the others have made of their shards.
void Trainer::share_updates() const {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < optimizer_->parameters().size(); ++i) {
    const std::vector<Shard>& shards = optimizer_->shards()[i];
    const at::Tensor flat = optimizer_->parameters()[i].value.view(-1);
    for (size_t rank = 0; rank < shards.size() && shards.size() > 1; ++rank) {
      ranks_->broadcast(flat.narrow(0, shards[rank].begin, shards[rank].count), static_cast<int>(rank));
    }
  }
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

/// Gradients of the mean loss over the tokens learned in all samples, whatever micro-batches they are read in, as far
/// as the micro-batches are this rank's. Returns the sum of their losses; nothing if a signal came in between.
std::optional<double> Trainer::accumulate(std::span<const int64_t> samples) {
  const Dataset& data = *setup_->train;
  CausalLM& model = *setup_->model;
  int64_t targets = 0;
  for (const int64_t sample : samples) targets += data.targets(sample);
  model.train();
  double loss_sum = 0;
  const std::vector<Micro> parts = own_micro_batches(samples);
  for (const auto& [index, part] : parts) {
    if (interrupted()) return {};
    if (index == parts.back().index) gradients_->last_backward();
    seed_micro_batch(setup_->options.train.seed, state_.step, index);
    const MicroBatch batch = data.batch(part, model.device());
    const Loss loss = loss_of(batch);
    loss_sum += checked_loss(loss, data, part);
    loss.sum.div(static_cast<double>(targets)).backward();
  }
  return loss_sum;
}

/// What is learned from a micro-batch: a sum over its targets.
Trainer::Loss Trainer::loss_of(const MicroBatch& batch) const {
  const auto& distill = setup_->options.distill;
  if (distill && state_.step < distill->attention_steps) {
    const at::Tensor error = attention_error(*setup_->model, *setup_->teacher, batch.tokens);
    return {error, error * static_cast<double>(batch.targets.ne(kIgnoredTarget).sum().item<int64_t>())};
  }
  const at::Tensor head = setup_->model->head_weight();
  const std::vector<at::Tensor> outputs = outputs_of(batch.tokens);
  const at::Tensor& hidden = outputs.back();
  const double cap = setup_->model->config().logit_softcap;
  Loss loss = loss_of_output(hidden, head, batch);
  for (size_t i = 0; i + 1 < outputs.size(); ++i) {
    const Distillation how{.weight = setup_->options.exits->distill};
    loss.sum =
        loss.sum + setup_->options.exits->weight * linear_distillation(outputs[i], head, hidden.detach(), head.detach(),
                                                                       batch.targets, how, cap, cap);
  }
  return loss;
}

/// Of every exit that learns; the last is the model's.
std::vector<at::Tensor> Trainer::outputs_of(const Sequences& tokens) const {
  CausalLM& model = *setup_->model;
  if (setup_->options.exits) return model.exit_states(tokens);
  return {model.hidden_states(tokens)};
}

/// Against the targets, and the teacher if there is one.
Trainer::Loss Trainer::loss_of_output(const at::Tensor& hidden, const at::Tensor& head, const MicroBatch& batch) const {
  const auto& distill = setup_->options.distill;
  const double cap = setup_->model->config().logit_softcap;
  if (!setup_->teacher) return {hidden, linear_cross_entropy(hidden, head, batch.targets, cap)};
  at::Tensor taught;
  {
    const at::NoGradGuard no_grad;
    taught = setup_->teacher->hidden_states(batch.tokens);
  }
  return {hidden, linear_distillation(hidden, head, taught, setup_->teacher->head_weight(), batch.targets, *distill,
                                      cap, setup_->teacher->config().logit_softcap)};
}

/// They are dealt to the ranks in turn.
std::vector<Trainer::Micro> Trainer::own_micro_batches(std::span<const int64_t> samples) const {
  const auto size = static_cast<size_t>(setup_->options.train.micro_batch_size);
  std::vector<Micro> parts;
  for (size_t begin = 0, index = 0; begin < samples.size(); begin += size, ++index) {
    if (static_cast<int>(index % static_cast<size_t>(ranks_->size())) != ranks_->rank()) continue;
    parts.push_back({static_cast<int64_t>(index), samples.subspan(begin, std::min(size, samples.size() - begin))});
  }
  return parts;
}

double Trainer::checked_loss(const Loss& loss, const Dataset& data, std::span<const int64_t> samples) const {
  const auto value = loss.sum.item<double>();
  if (std::isfinite(value)) return value;
  fail(ErrorCode::kNonFinite, "update ", state_.step + 1, ": the loss is ", value,
       "; first bad tensor: ", first_bad_tensor(*setup_->model, loss.from), "; rows ", describe_rows(data, samples),
       "; nothing was updated; look at these rows, or lower train.lr");
}

double Trainer::clip_gradients(std::span<const int64_t> samples) {
  const double norm = optimizer_->grad_norm();
  if (!std::isfinite(norm)) {
    const std::string bad = optimizer_->first_nonfinite_grad();
    fail(ErrorCode::kNonFinite, "update ", state_.step + 1, ": the gradient norm is ", norm,
         "; first bad tensor: ", bad.empty() ? "none, their norm overflows" : cat("gradient of '", bad, "'"), "; rows ",
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
  std::optional<double> sum = 0;
  // After each loop but the last, as far as they learn.
  std::vector<double> exits(setup_->options.exits ? setup_->base_config.recursive->loops - 1 : 0);
  for (const auto& [index, part] : own_micro_batches(all)) {
    if (interrupted()) {
      sum.reset();
      break;
    }
    const MicroBatch batch = data.batch(part, model.device());
    const std::vector<at::Tensor> outputs = outputs_of(batch.tokens);
    const auto loss_at = [&](const at::Tensor& hidden) {
      return checked_loss(
          {hidden, linear_cross_entropy(hidden, model.head_weight(), batch.targets, model.config().logit_softcap)},
          data, part);
    };
    *sum += loss_at(outputs.back());
    for (size_t i = 0; i < exits.size(); ++i) exits[i] += loss_at(outputs[i]);
  }
  if (!sum_over_ranks(sum)) return false;
  for (double& exit : exits) {
    std::optional<double> whole = exit;
    sum_over_ranks(whole);
    exit = *whole / static_cast<double>(data.counts().targets);
  }
  const double loss = *sum / static_cast<double>(data.counts().targets);
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
  if (!first()) return true;
  MetricsRow row = metrics_row();
  row.eval_loss = loss;
  metrics_->add(row);
  log_info(cat("update ", state_.step, ": validation loss ", loss, ", best ", *state_.best_eval_loss, " at update ",
               state_.best_step));
  for (size_t i = 0; i < exits.size(); ++i) log_info(cat("  after loop ", i + 1, ": ", exits[i]));
  return true;
}

bool Trainer::sample_due() const {
  const std::optional<SampleOptions>& sample = setup_->options.sample;
  if (!sample || state_.sampled_at == state_.step) return false;
  return state_.step % sample->every == 0 || state_.step == setup_->total_steps;
}

/// Rank 0 writes the texts; the others wait for it, and learn whether a signal broke it off.
bool Trainer::sample() {
  std::optional<double> done = 0;
  if (first() && !write_samples()) done.reset();
  if (!sum_over_ranks(done)) return false;
  state_.sampled_at = state_.step;
  return true;
}

bool Trainer::write_samples() {
  std::vector<TextSample> samples;
  try {
    samples = draw_samples(*setup_->model, *setup_->tokenizer, *setup_->options.sample);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kCancelled) return false;
    if (e.code() != ErrorCode::kBadInput) throw;
    fail(ErrorCode::kNonFinite, "update ", state_.step, ": ", e.what());  // the weights make no probabilities any more
  }
  metrics_->add(state_.step, samples);
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
  row.loss = state_.last_loss = state_.loss_sum / static_cast<double>(state_.loss_targets);
  row.grad_norm = grad_norm;
  row.tokens_per_second = static_cast<double>(row_tokens_) / row_seconds_;
  state_.loss_sum = 0;
  state_.loss_targets = row_tokens_ = 0;
  row_seconds_ = 0;
  if (!first()) return;
  metrics_->add(row);
  progress_->update(state_.step, progress_note(row));
}

bool Trainer::checkpoint_due() const {
  const int64_t every = setup_->options.save.every;
  if (every == 0 || state_.step == first_step_ || saved_at_ == state_.step) return false;
  return state_.step % every == 0 || state_.step == setup_->total_steps;
}

void Trainer::save_checkpoint() {
  saved_at_ = state_.step;
  if (!first()) return hand_over_optimizer(*optimizer_, *ranks_);
  metrics_->sync();
  state_.seconds = elapsed();
  state_.schedule = schedule_->state();
  AtomicDirectory out(folder_->checkpoint_path(state_.step), /*overwrite=*/true);
  write_weights(*setup_, setup_->model->dtype(), out.path());
  write_optimizer(*optimizer_, *ranks_, out.path());
  write_state(*setup_, state_, metrics_->sizes(), out.path());
  out.commit();
  folder_->prune();
}

void Trainer::stop_by_signal() {
  if (saved_at_ != state_.step) save_checkpoint();
  const std::string where = first() ? cat("; saved in ", folder_->checkpoint_path(state_.step).string()) : "";
  fail(ErrorCode::kInterrupted, "stopped by a signal after update ", state_.step, " of ", setup_->total_steps, where,
       "; to go on, run the same with save.resume auto");
}

FinetuneResult Trainer::finish() {
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
  if (!first()) return result;
  progress_->finish();
  metrics_->sync();
  result.output = folder_->path() / "final";
  AtomicDirectory out(result.output, /*overwrite=*/true);
  write_weights(*setup_, final_dtype(*setup_), out.path());
  write_text_atomic(out.path() / "README.md", model_card(*setup_, result));
  out.commit();
  return result;
}

}  // namespace liger
