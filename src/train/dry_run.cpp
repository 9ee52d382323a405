#include "liger/train/dry_run.h"

#include <ATen/ops/randint.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <utility>
#include <vector>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/io/process.h"
#include "liger/models/check_weights.h"
#include "liger/models/family.h"
#include "liger/ops/linear_cross_entropy.h"
#include "train/describe.h"
#include "train/memory_estimate.h"
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

int64_t longest_sample(const Dataset& data) {
  int64_t longest = 0;
  for (int64_t sample = 0; sample < data.size(); ++sample) longest = std::max(longest, data.tokens(sample));
  return longest;
}

/// One micro-batch of random tokens and an update from it.
void random_update(CausalLM& model, AdamW& optimizer, int64_t rows, int64_t length, double lr) {
  model.train();
  const at::Tensor ids = at::randint(model.config().vocab_size, {rows, length}, at::kLong).to(model.device());
  at::Tensor targets = ids.roll(-1, 1).clone();
  targets.select(1, length - 1).fill_(kIgnoredTarget);
  const at::Tensor hidden = model.hidden_states(Sequences::from_padded(ids));
  const at::Tensor loss =
      linear_cross_entropy(hidden, model.head_weight(), targets.flatten(), model.config().logit_softcap);
  loss.div(static_cast<double>(rows * (length - 1))).backward();
  const double norm = optimizer.grad_norm();
  LIGER_CHECK(std::isfinite(loss.item<double>()) && std::isfinite(norm), "one update on random tokens: the loss is ",
              loss.item<double>(), " and the gradient norm ", norm, ": the weights cannot be trained");
  optimizer.step(lr);
}

DryRun::Step measured_step(const TrainingSetup& setup, const UpdateShape& shape) {
  const FinetuneOptions& options = setup.options;
  AdamW optimizer(setup.trainable(), {.eight_bit = options.train.optimizer == OptimizerKind::kAdamW8bit});
  const auto begin = std::chrono::steady_clock::now();
  random_update(*setup.model, optimizer, shape.rows, shape.length, options.train.lr);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return {seconds.count() * static_cast<double>(shape.micro_batches), peak_memory_bytes()};
}

/// What a process has resident that has trained a model without weight: code is in memory once it has run.
int64_t process_without_model(ModelConfig config) {
  config.num_attention_heads = config.group_size();
  config.num_key_value_heads = 1;
  config.hidden_size = config.intermediate_size = config.num_attention_heads * config.head_dim;
  config.num_hidden_layers = 1;
  config.recursive.reset();
  config.vocab_size = 64;
  CausalLM model(config);
  add_lora(model, {});
  std::vector<NamedParameter> trained;
  for (const auto& item : model.named_parameters())
    if (item.value().requires_grad()) trained.push_back({item.key(), item.value()});
  AdamW optimizer(trained, {});
  random_update(model, optimizer, 1, 64, 1e-3);
  return resident_memory_bytes();
}

/// Of the weights in the folder, if there are any: checked, without reading the numbers.
std::optional<at::ScalarType> stored_type(const TrainingSetup& setup, const ModelConfig& config) {
  if (setup.options.model.init == Init::kRandom) return {};
  const auto has_weights = [&] {
    for (const auto& entry : std::filesystem::directory_iterator(setup.base))
      if (entry.path().extension() == ".safetensors") return true;
    return false;
  };
  if (!has_weights()) return {};
  const WeightFiles files(setup.base);
  check_weights(files, config, setup.base.string());
  return to_scalar_type(files.find(config.family->embedding_weight())->info->dtype);
}

// 4 floating-point operations for each parameter and token of a micro-batch: ten seconds of a slow core, and a model
// that is loaded in one.
bool is_quick(const TrainingSetup& setup, const UpdateShape& shape) {
  constexpr double kOperations = 4e11;
  return 4.0 * static_cast<double>(setup.parameter_counts().all) * static_cast<double>(shape.rows * shape.length) <=
         kOperations;
}

std::string gigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f GB", static_cast<double>(bytes) / 1e9);
  return text;
}

/// A token's piece on one line.
std::string printable(const std::string& piece) {
  return OrderedJson(piece).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::vector<std::pair<const char*, int64_t>> terms(const MemoryEstimate& m) {
  return {{"weights", m.weights},         {"adapters", m.adapters},
          {"gradients", m.gradients},     {"moments", m.moments},
          {"activations", m.activations}, {"temporaries", m.temporaries},
          {"process", m.process},         {"peak", m.peak}};
}

void print_memory(const DryRun& run, std::ostream& out) {
  if (run.memory) {
    out << "memory, foretold from the shapes:\n";
    for (const auto& [name, bytes] : terms(*run.memory)) {
      char line[64];
      std::snprintf(line, sizeof line, "  %-12s %12s", name, gigabytes(bytes).c_str());
      out << line << (std::string(name) == "peak" ? ", at " + run.memory->peak_at : "") << "\n";
    }
  } else {
    out << "memory: " << run.not_estimated << "\n";
  }
  if (run.step) {
    out << "memory, measured over one update on random tokens: " << gigabytes(run.step->peak_memory_bytes) << "\n";
  } else {
    out << "no update was made; --dry-run=step loads the model and makes one\n";
  }
}

}  // namespace

DryRun dry_run(const FinetuneOptions& options, DryRunStep step) {
  DryRun run;
  run.setup = TrainingSetup::load_data(options);
  TrainingSetup& setup = run.setup;
  const ModelConfig config = setup.model_config();
  const TrainOptions& train = options.train;
  const UpdateShape shape{.rows = std::min(train.micro_batch_size, setup.train->size()),
                          .length = longest_sample(*setup.train),
                          .micro_batches = train.batch_size / train.micro_batch_size,
                          .stored = stored_type(setup, config)};
  run.checkpoint_bytes = checkpoint_bytes(config, setup.options);
  run.token_bytes = setup.train->corpus().bytes();
  if (options.data.val) run.token_bytes += setup.validation->corpus().bytes();
  run.not_estimated = not_estimated(config, setup.options, shape);
  if (run.not_estimated.empty())
    run.memory = estimate_memory(config, setup.options, shape, process_without_model(config));

  if (step == DryRunStep::kAlways || (step == DryRunStep::kIfQuick && is_quick(setup, shape))) {
    setup.load_model();
    run.step = measured_step(setup, shape);
  }
  setup.tokens.reset();  // their files go; the samples to be shown are mapped
  return run;
}

std::string to_text(const DryRun& run) {
  const TrainingSetup& setup = run.setup;
  std::ostringstream out;
  for (const std::string& line : describe(setup)) out << line << "\n";
  print_memory(run, out);
  out << "disk: " << gigabytes(run.checkpoint_bytes) << " a checkpoint, "
      << gigabytes(run.checkpoint_bytes * (setup.options.save.keep + 2)) << " in all, " << gigabytes(run.token_bytes)
      << " of tokens\n";
  if (run.step) {
    out << "time: about " << format_duration(run.step->seconds * static_cast<double>(setup.total_steps)) << ", "
        << run.step->seconds << " s an update\n";
  }
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
    if (const int64_t more = count - static_cast<int64_t>(tokens.size()); more > 0)
      out << "  and " << more << " more\n";
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
  if (run.memory) {
    for (const auto& [name, bytes] : terms(*run.memory)) out["memory"][cat(name, "_bytes")] = bytes;
    out["memory"]["peak_at"] = run.memory->peak_at;
  } else {
    out["memory"] = nullptr;
  }
  out["peak_memory_bytes"] = run.step ? OrderedJson(run.step->peak_memory_bytes) : OrderedJson();
  out["seconds_per_step"] = run.step ? OrderedJson(run.step->seconds) : OrderedJson();
  out["checkpoint_bytes"] = run.checkpoint_bytes;
  out["checkpoints_bytes"] = run.checkpoint_bytes * (setup.options.save.keep + 2);
  out["token_bytes"] = run.token_bytes;
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
