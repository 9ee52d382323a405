#include "train/checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <mutex>

#include "liger/core/checkpoint.h"
#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "liger/io/settings.h"
#include "liger/nn/adapter_base.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "trainer.json";
constexpr const char* kGeneratorTensor = "generator.cpu";

/// Files that travel with a model beside its weights.
bool belongs_to_model(const std::string& name) {
  for (const char* file : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "chat_template.jinja", "generation_config.json"}) {
    if (name == file) return true;
  }
  return name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

/// The base's config.json with what this model says, so that keys we do not know stay.
OrderedJson whole_config(const TrainingSetup& setup, at::ScalarType dtype) {
  OrderedJson config = read_ordered_json(setup.base / "config.json");
  ModelConfig ours = setup.model->config();
  ours.stored_dtype = dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16"
                      : dtype == at::kDouble ? "float64" : "float32";
  const OrderedJson known = ours.to_json();
  for (const auto& item : known.items()) config[item.key()] = item.value();
  if (!ours.liger) config.erase("liger");
  return config;
}

Settings read_state_file(const fs::path& dir) {
  const std::string file = (dir / kStateFile).string();
  return Settings::from_json(read_json(file), file);
}

/// What must be the same for a resumed run to be the run that was stopped.
OrderedJson fixed_settings(const FinetuneOptions& options, const std::string& data_sha256) {
  const OrderedJson all = to_json(options);
  OrderedJson out;
  for (const char* key : {"attention", "window", "sinks", "mix", "gate_divisor", "dtype"}) {
    out[cat("model.", key)] = all["model"][key];
  }
  if (all["lora"].is_null()) {
    out["lora"] = nullptr;
  } else {
    for (const auto& item : all["lora"].items()) out["lora." + item.key()] = item.value();
  }
  for (const auto& item : all["data"].items()) {
    const std::string& key = item.key();
    const bool is_path = key == "train" || key == "val" || key == "cache";  // a file may move; its hash counts
    if (!is_path) out["data." + item.key()] = item.value();
  }
  out["data.train sha256"] = data_sha256;
  for (const char* key : {"batch_size", "seed", "optimizer"}) out[cat("train.", key)] = all["train"][key];
  return out;
}

void check_fixed_settings(const Json& then, const OrderedJson& now, const std::string& file) {
  const Json defaults = fixed_settings({}, "");
  for (const auto& item : now.items()) {
    // A run that began before there was such a key had its default.
    const Json was = then.contains(item.key()) ? then[item.key()] : defaults.value(item.key(), Json());
    LIGER_CHECK_USAGE(was == Json(item.value()), file, ": the run began with ", item.key(), " ", was.dump(), ", now it is ",
                      item.value().dump(), "; set it back to go on, or set save.resume to never to start anew");
  }
}

OrderedJson to_json(const TrainState& s, const Metrics::Sizes& metrics) {
  const auto number = [](const std::optional<double>& x) { return x ? OrderedJson(*x) : OrderedJson(); };
  OrderedJson out;
  out["step"] = s.step;
  out["epoch"] = s.epoch;
  out["sample"] = s.sample;
  out["tokens"] = s.tokens;
  out["seconds"] = s.seconds;
  out["loss_sum"] = s.loss_sum;
  out["loss_targets"] = s.loss_targets;
  out["last_loss"] = number(s.last_loss);
  out["evaluated_at"] = s.evaluated_at;
  out["first_eval_loss"] = number(s.first_eval_loss);
  out["eval_loss"] = number(s.eval_loss);
  out["best_eval_loss"] = number(s.best_eval_loss);
  out["best_step"] = s.best_step;
  out["sampled_at"] = s.sampled_at;
  out["plateau"] = {{"factor", s.schedule.factor},
                    {"best", std::isfinite(s.schedule.best) ? OrderedJson(s.schedule.best) : OrderedJson()},
                    {"bad_validations", s.schedule.bad_validations}};
  out["metrics"] = OrderedJson(metrics);
  return out;
}

TrainState from_json(const Settings& file, Metrics::Sizes& metrics) {
  TrainState s;
  file.get("step", s.step);
  file.get("epoch", s.epoch);
  file.get("sample", s.sample);
  file.get("tokens", s.tokens);
  file.get("seconds", s.seconds);
  file.get("loss_sum", s.loss_sum);
  file.get("loss_targets", s.loss_targets);
  file.get("last_loss", s.last_loss);
  file.get("evaluated_at", s.evaluated_at);
  file.get("first_eval_loss", s.first_eval_loss);
  file.get("eval_loss", s.eval_loss);
  file.get("best_eval_loss", s.best_eval_loss);
  file.get("best_step", s.best_step);
  file.get("sampled_at", s.sampled_at);
  const Settings plateau = file.section("plateau");
  std::optional<double> best;
  plateau.get("factor", s.schedule.factor);
  plateau.get("best", best);
  plateau.get("bad_validations", s.schedule.bad_validations);
  if (best) s.schedule.best = *best;
  const Json sizes = file.section("metrics").to_json();
  for (const auto& item : sizes.items()) metrics[item.key()] = item.value().get<int64_t>();
  return s;
}

}  // namespace

void write_weights(const TrainingSetup& setup, at::ScalarType dtype, const fs::path& dir) {
  if (setup.lora) {
    save_adapter(*setup.model, *setup.lora, dir);
    write_text_atomic(dir / kAdapterBaseFile, setup.adapter_base.dump(2) + "\n");
    return;
  }
  setup.model->save_weights(dir / "model.safetensors", dtype);
  write_text_atomic(dir / "config.json", whole_config(setup, dtype).dump(2) + "\n");
  for (const auto& entry : fs::directory_iterator(setup.base)) {
    const std::string name = entry.path().filename().string();
    if (belongs_to_model(name)) write_text_atomic(dir / name, read_text(entry.path()));
  }
}

void write_state(const TrainingSetup& setup, const TrainState& state, const AdamW& optimizer,
                 const Metrics::Sizes& metrics, const fs::path& dir) {
  std::map<std::string, at::Tensor> tensors = optimizer.state();
  tensors[kGeneratorTensor] = random_state();
  save_tensors(dir / kOptimizerFile, tensors);
  OrderedJson json = to_json(state, metrics);
  json["settings"] = fixed_settings(setup.options, setup.data_sha256);
  write_text_atomic(dir / kStateFile, json.dump(2) + "\n");
}

TrainState read_state(const fs::path& dir, const TrainingSetup& setup, AdamW& optimizer, Metrics::Sizes& metrics) {
  const Settings json = read_state_file(dir);
  check_fixed_settings(json.section("settings").to_json(), fixed_settings(setup.options, setup.data_sha256), (dir / kStateFile).string());
  const TrainState state = from_json(json, metrics);
  const auto tensors = load_tensors(dir / kOptimizerFile);
  with_context((dir / kOptimizerFile).string(), [&] {
    optimizer.restore(tensors, state.step);
    const auto saved = tensors.find(kGeneratorTensor);
    LIGER_CHECK(saved != tensors.end(), "tensor '", kGeneratorTensor, "' is missing");
    set_random_state(saved->second);
  });
  return state;
}

int64_t saved_step(const fs::path& dir) {
  int64_t step = -1;
  read_state_file(dir).get("step", step);
  LIGER_CHECK(step >= 0, (dir / kStateFile).string(), ": 'step' is missing");
  return step;
}

at::Tensor random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(const at::Tensor& state) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state.clone());
}

}  // namespace liger
