#include "train/checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/version.h>

#include <cmath>

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
  ModelConfig ours = setup.model->config_as_trained();
  ours.stored_dtype = dtype == at::kBFloat16 ? "bfloat16"
                      : dtype == at::kHalf   ? "float16"
                      : dtype == at::kDouble ? "float64"
                                             : "float32";
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
  for (const char* section : {"exits", "distill"}) out[section] = all[section];
  return out;
}

void check_fixed_settings(const Json& then, const OrderedJson& now, const std::string& file) {
  const Json defaults = fixed_settings(FinetuneOptions(), "");
  for (const auto& item : now.items()) {
    if (item.key() == "distill" && !then.contains(item.key())) continue;  // it was not written down
    // A run that began before there was such a key had its default.
    const Json was = then.contains(item.key()) ? then[item.key()] : defaults.value(item.key(), Json());
    LIGER_CHECK_USAGE(was == Json(item.value()), file, ": the run began with ", item.key(), " ", was.dump(),
                      ", now it is ", item.value().dump(),
                      "; set it back to go on, or set save.resume to never to start anew");
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

/// The optimizer's state is cut into the shards of several ranks.
bool shared(const AdamW& optimizer) { return !optimizer.shards().empty() && optimizer.shards()[0].size() > 1; }

/// A tensor of the optimizer's state as all ranks have it together.
at::Tensor put_together(const AdamW::StateTensor& tensor, const std::map<std::string, at::Tensor>& own,
                        const AdamW& optimizer, const Ranks& ranks) {
  if (!shared(optimizer)) return own.at(tensor.name);
  const at::Device device = optimizer.parameters()[0].value.device();
  const at::Tensor whole = at::empty(tensor.shape, at::device(device).dtype(tensor.dtype));
  for (size_t rank = 0; rank < tensor.shards.size(); ++rank) {
    const auto [begin, count] = tensor.shards[rank];
    const at::Tensor part = whole.view(-1).narrow(0, begin, count);
    if (static_cast<int>(rank) == ranks.rank() && count > 0) part.copy_(own.at(tensor.name).view(-1));
    ranks.broadcast(part, static_cast<int>(rank));
  }
  return whole;
}

/// The same tensor out of rank 0's file.
at::Tensor whole_tensor(const AdamW::StateTensor& tensor, const std::map<std::string, at::Tensor>& saved,
                        const AdamW& optimizer, const Ranks& ranks) {
  at::Tensor whole;
  if (ranks.first()) {
    const auto found = saved.find(tensor.name);
    LIGER_CHECK(found != saved.end(), "tensor '", tensor.name, "' is missing");
    whole = found->second;
    LIGER_CHECK(whole.sizes() == tensor.shape && whole.scalar_type() == tensor.dtype, "tensor '", tensor.name,
                "': expected ", at::IntArrayRef(tensor.shape), " ", tensor.dtype, ", got ", whole.sizes(), " ",
                whole.scalar_type());
  }
  if (ranks.size() == 1) return whole;
  const at::Device device = optimizer.parameters()[0].value.device();
  whole = ranks.first() ? whole.to(device) : at::empty(tensor.shape, at::device(device).dtype(tensor.dtype));
  ranks.broadcast(whole);
  return whole;
}

}  // namespace

void write_weights(const TrainingSetup& setup, at::ScalarType dtype, const fs::path& dir) {
  if (setup.lora) {
    save_adapter(*setup.model, *setup.lora, dir);
    write_text_atomic(dir / kAdapterBaseFile, setup.adapter_base.dump(2) + "\n");
    return;
  }
  setup.model->save_weights(dir / "model.safetensors", dtype);
  if (setup.own_adapter) {
    fs::create_directory(dir / "adapter");
    LoraConfig own = *setup.own_adapter;
    own.base_model_name_or_path = "..";  // the folder it lies in
    save_adapter(*setup.model, own, dir / "adapter");
  }
  write_text_atomic(dir / "config.json", whole_config(setup, dtype).dump(2) + "\n");
  for (const auto& entry : fs::directory_iterator(setup.base)) {
    const std::string name = entry.path().filename().string();
    if (belongs_to_model(name)) write_text_atomic(dir / name, read_text(entry.path()));
  }
}

void write_state(const TrainingSetup& setup, const TrainState& state, const Metrics::Sizes& metrics,
                 const fs::path& dir) {
  OrderedJson json = to_json(state, metrics);
  json["settings"] = fixed_settings(setup.options, setup.data_sha256);
  write_text_atomic(dir / kStateFile, json.dump(2) + "\n");
}

void write_optimizer(const AdamW& optimizer, const Ranks& ranks, const fs::path& dir) {
  const at::NoGradGuard no_grad;
  std::map<std::string, AdamW::StateTensor> tensors;
  std::vector<TensorInfo> infos;
  for (AdamW::StateTensor& tensor : optimizer.layout()) {
    infos.push_back({tensor.name, to_file_dtype(tensor.dtype), tensor.shape, 0, 0});
    tensors[tensor.name] = std::move(tensor);
  }
  const std::map<std::string, at::Tensor> own = optimizer.state();
  SafetensorsWriter writer(dir / kOptimizerFile, std::move(infos));
  for (const TensorInfo& info : writer.order()) {
    if (shared(optimizer)) ranks.broadcast(info.name);
    const at::Tensor whole = put_together(tensors.at(info.name), own, optimizer, ranks).cpu().contiguous();
    writer.write({static_cast<const std::byte*>(whole.const_data_ptr()), whole.nbytes()});
  }
  if (shared(optimizer)) ranks.broadcast("");
  writer.finish();
}

void hand_over_optimizer(const AdamW& optimizer, const Ranks& ranks) {
  if (!shared(optimizer)) return;
  const at::NoGradGuard no_grad;
  std::map<std::string, AdamW::StateTensor> tensors;
  for (AdamW::StateTensor& tensor : optimizer.layout()) tensors[tensor.name] = std::move(tensor);
  const std::map<std::string, at::Tensor> own = optimizer.state();
  while (true) {
    const std::string name = ranks.broadcast("");
    if (name.empty()) return;
    put_together(tensors.at(name), own, optimizer, ranks);
  }
}

TrainState read_state(const fs::path& dir, const TrainingSetup& setup, Metrics::Sizes& metrics) {
  const Settings json = read_state_file(dir);
  check_fixed_settings(json.section("settings").to_json(), fixed_settings(setup.options, setup.data_sha256),
                       (dir / kStateFile).string());
  return from_json(json, metrics);
}

void restore_optimizer(const fs::path& dir, AdamW& optimizer, const Ranks& ranks, int64_t steps) {
  if (steps == 0) return;
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> saved, own;
  if (!dir.empty()) saved = load_tensors(dir / kOptimizerFile);
  const auto restore = [&] {
    for (const AdamW::StateTensor& tensor : optimizer.layout()) {
      const at::Tensor whole = whole_tensor(tensor, saved, optimizer, ranks);
      const size_t rank = shared(optimizer) ? static_cast<size_t>(ranks.rank()) : 0;
      const Shard shard = tensor.shards[rank];
      if (shard.count == whole.numel()) {
        own[tensor.name] = whole;
      } else if (shard.count > 0) {
        own[tensor.name] = whole.view(-1).narrow(0, shard.begin, shard.count).clone();
      }
    }
    optimizer.restore(own, steps);
  };
  with_context(dir.empty() ? std::string("rank 0's optimizer") : (dir / kOptimizerFile).string(), restore);
}

std::string to_text(const TrainState& state) { return to_json(state, {}).dump(); }

TrainState state_from_text(const std::string& text) {
  Metrics::Sizes none;
  return from_json(Settings::from_json(parse_json(text, "rank 0's state"), "rank 0's state"), none);
}

std::string what_ranks_share(const TrainingSetup& setup) {
  std::string lines = cat("LibTorch ", TORCH_VERSION, "\n");
  OrderedJson settings = fixed_settings(setup.options, setup.data_sha256);
  const OrderedJson all = to_json(setup.options);
  for (const auto& item : all["train"].items()) settings["train." + item.key()] = item.value();
  for (const auto& item : settings.items()) lines += cat(item.key(), " ", item.value().dump(), "\n");
  lines += cat(setup.total_steps, " updates\n");
  for (const NamedParameter& p : setup.trainable())
    lines += cat(p.name, " ", p.value.sizes(), " ", p.value.scalar_type(), "\n");
  return lines;
}

int64_t saved_step(const fs::path& dir) {
  int64_t step = -1;
  read_state_file(dir).get("step", step);
  LIGER_CHECK(step >= 0, (dir / kStateFile).string(), ": 'step' is missing");
  return step;
}

}  // namespace liger
