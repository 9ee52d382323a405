#include "liger/train/dry_run.h"

#include <ATen/ops/randint.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <sstream>

#include "liger/error.h"
#include "liger/io/process.h"
#include "liger/ops/linear_cross_entropy.h"
#include "train/describe.h"
#include "train/metrics.h"
#include "train/token_cache.h"

namespace liger {
namespace {

constexpr int64_t kSamplesShown = 2, kTokensShown = 48;

struct ShownToken {
  int64_t id;
  std::string text;
  bool learned;  // the model is asked to predict this token
};

std::vector<ShownToken> first_tokens(const TrainingSetup& setup, int64_t sample) {
  const Corpus& corpus = setup.train->corpus();
  std::vector<ShownToken> tokens;
  for (const Piece& piece : setup.train->pieces(sample)) {
    for (int64_t i = piece.begin; i < piece.end && tokens.size() < kTokensShown; ++i) {
      const int64_t id = corpus.token(i);
      tokens.push_back({id, setup.tokenizer->token(id), i > piece.begin && corpus.learned(i)});
    }
  }
  return tokens;
}

/// One micro-batch of the largest shape and an update of it; returns the seconds it took, and adds the moments' size.
double random_step(const TrainingSetup& setup, int64_t& optimizer_bytes) {
  const auto begin = std::chrono::steady_clock::now();
  const FinetuneOptions& options = setup.options;
  const int64_t length = options.data.max_length, rows = options.train.micro_batch_size;
  CausalLM& model = *setup.model;
  AdamW optimizer(setup.trainable(), {.eight_bit = options.train.optimizer == OptimizerKind::kAdamW8bit});
  model.train();
  const at::Tensor ids = at::randint(model.config().vocab_size, {rows, length}, at::kLong).to(model.device());
  at::Tensor targets = ids.roll(-1, 1).clone();
  targets.select(1, length - 1).fill_(kIgnoredTarget);
  const at::Tensor hidden = model.hidden_states(Sequences::from_padded(ids));
  const at::Tensor loss = linear_cross_entropy(hidden, model.head_weight(), targets.flatten());
  loss.div(static_cast<double>(rows * (length - 1))).backward();
  const double norm = optimizer.grad_norm();
  for (const auto& [name, moment] : optimizer.state()) optimizer_bytes += static_cast<int64_t>(moment.nbytes());
  optimizer.step(options.train.lr);
  LIGER_CHECK(std::isfinite(loss.item<double>()) && std::isfinite(norm), "one update on random tokens: the loss is ",
              loss.item<double>(), " and the gradient norm ", norm, ": the weights cannot be trained");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f GB", static_cast<double>(bytes) / 1e9);
  return text;
}

/// A token's piece on one line.
std::string printable(const std::string& piece) { return OrderedJson(piece).dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

int64_t trained_bytes(const TrainingSetup& setup) {
  int64_t bytes = 0;
  for (const at::Tensor& p : setup.model->parameters()) {
    if (p.requires_grad()) bytes += p.numel() * p.element_size();
  }
  return bytes;
}

}  // namespace

DryRun dry_run(const FinetuneOptions& options) {
  DryRun run;
  run.setup = TrainingSetup::load_data(options);
  run.setup.load_model();
  const int64_t micro_batches = options.train.batch_size / options.train.micro_batch_size;
  run.checkpoint_bytes = trained_bytes(run.setup);
  run.step_seconds = random_step(run.setup, run.checkpoint_bytes) * static_cast<double>(micro_batches);
  run.peak_memory_bytes = peak_memory_bytes();
  run.setup.tokens.reset();  // their files go; the samples to be shown are mapped
  return run;
}

std::string to_text(const DryRun& run) {
  const TrainingSetup& setup = run.setup;
  std::ostringstream out;
  for (const std::string& line : describe(setup)) out << line << "\n";
  out << "memory, measured over one update on random tokens: " << gigabytes(run.peak_memory_bytes) << "\n"
      << "disk: " << gigabytes(run.checkpoint_bytes) << " a checkpoint, "
      << gigabytes(run.checkpoint_bytes * (setup.options.save.keep + 2)) << " in all\n"
      << "time: about " << format_duration(run.step_seconds * static_cast<double>(setup.total_steps)) << ", "
      << run.step_seconds << " s an update\n";
  for (int64_t sample = 0; sample < std::min(kSamplesShown, setup.train->size()); ++sample) {
    const int64_t count = setup.train->tokens(sample);
    const auto tokens = first_tokens(setup, sample);
    out << "\nsample " << sample + 1 << " (" << describe_rows(*setup.train, {{sample}}) << "): " << count << " tokens, "
        << setup.train->targets(sample) << " to learn\n  position      id  learned  token\n";
    for (size_t i = 0; i < tokens.size(); ++i) {
      char line[64];
      std::snprintf(line, sizeof line, "  %8zu  %6lld  %7s  ", i, static_cast<long long>(tokens[i].id),
                    tokens[i].learned ? "yes" : "");
      out << line << printable(tokens[i].text) << "\n";
    }
    if (const int64_t more = count - static_cast<int64_t>(tokens.size()); more > 0) out << "  and " << more << " more\n";
  }
  return out.str();
}

OrderedJson to_json(const DryRun& run) {
  const TrainingSetup& setup = run.setup;
  const auto counts = setup.parameter_counts();
  OrderedJson out;
  out["parameters"] = counts.all;
  out["trained_parameters"] = counts.trained;
  out["samples"] = setup.train->size();
  out["tokens_per_epoch"] = setup.train->counts().tokens;
  out["targets_per_epoch"] = setup.train->counts().targets;
  out["steps"] = setup.total_steps;
  out["steps_per_epoch"] = setup.steps_per_epoch;
  out["peak_memory_bytes"] = run.peak_memory_bytes;
  out["checkpoint_bytes"] = run.checkpoint_bytes;
  out["seconds_per_step"] = run.step_seconds;
  for (int64_t sample = 0; sample < std::min(kSamplesShown, setup.train->size()); ++sample) {
    OrderedJson tokens = OrderedJson::array();
    for (const ShownToken& t : first_tokens(setup, sample)) {
      tokens.push_back({{"id", t.id}, {"token", t.text}, {"learned", t.learned}});
    }
    out["first_samples"].push_back(tokens);
  }
  return out;
}

}  // namespace liger
