#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <set>

#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/io/log.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "nn/mix_settings.h"
#include "nn/token_mixer.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

const std::string kPeftPrefix = "base_model.model.";
constexpr const char* kAdapterConfig = "adapter_config.json";

std::map<std::string, Linear*> linear_modules(const CausalLM& model) {
  std::map<std::string, Linear*> out;
  for (const auto& item : model.named_modules("", /*include_self=*/false))
    if (auto* linear = item.value()->as<Linear>()) out.emplace(item.key(), linear);
  return out;
}

template <typename Value>
std::vector<std::string> paths_of(const std::map<std::string, Value>& by_path) {
  std::vector<std::string> paths;
  for (const auto& [path, value] : by_path) paths.push_back(path);
  return paths;
}

// "lora_A.default.weight" is PEFT's name in memory; a magnitude is a module there and bare in a file.
std::string as_stored(std::string name) {
  const std::string wrapped = ".modules_to_save.default.";
  if (const size_t at = name.rfind(wrapped); at != std::string::npos) name.replace(at, wrapped.size(), ".");
  for (const std::string part : {".lora_A", ".lora_B", ".lora_magnitude_vector"}) {
    const std::string adapter = part + ".default";
    if (const size_t at = name.rfind(adapter); at != std::string::npos) name.replace(at, adapter.size(), part);
  }
  const std::string in_memory = ".lora_magnitude_vector.weight";
  if (name.ends_with(in_memory)) name.resize(name.size() - std::string(".weight").size());
  return name;
}

/// What may be wrong with the tensors of a file, told all at once.
class Problems {
 public:
  void add(std::string text) { texts_.push_back(std::move(text)); }
  void report(const std::string& file) const {
    constexpr size_t kShown = 20;
    std::string text;
    for (size_t i = 0; i < std::min(texts_.size(), kShown); ++i) text += (i ? "; " : "") + texts_[i];
    LIGER_CHECK(texts_.empty(), file, ": ", texts_.size(), " tensors do not fit the model: ", text);
  }

 private:
  std::vector<std::string> texts_;
};

/// A place for a tensor that an adapter must have.
struct Slot {
  at::Tensor* tensor;
  std::vector<int64_t> shape;
};

using Shapes = std::map<std::string, std::vector<int64_t>>;

// Of what an adapter of this configuration holds whole.
Shapes saved_shapes(const LoraConfig& config, const ModelConfig& model) {
  Shapes out = config.mixer ? mixer_shapes(model) : Shapes();
  if (config.norms) out.merge(norm_shapes(model));
  if (config.biases) out.merge(bias_shapes(model));
  return out;
}

std::map<std::string, Slot> slots_of(Adapter& adapter, const Shapes& shapes, const Shapes& saved) {
  std::map<std::string, Slot> slots;
  for (LoraTensors& module : adapter.modules) {
    const std::string path = kPeftPrefix + module.module.path;
    const int64_t r = module.module.r, out = shapes.at(module.module.path)[0], in = shapes.at(module.module.path)[1];
    slots[path + ".lora_A.weight"] = {&module.a, {r, in}};
    slots[path + ".lora_B.weight"] = {&module.b, {out, r}};
    if (adapter.config.dora) slots[path + ".lora_magnitude_vector"] = {&module.magnitude, {out}};
  }
  for (const auto& [name, shape] : saved) slots[kPeftPrefix + name] = {&adapter.saved[name], shape};
  return slots;
}

void read_tensors(const SafetensorsFile& file, std::map<std::string, Slot> slots) {
  Problems problems;
  for (const TensorInfo& info : file.tensors()) {
    const auto slot = slots.find(as_stored(info.name));
    if (slot == slots.end()) {
      problems.add("unexpected " + info.name);
      continue;
    }
    const at::Tensor stored = map_tensor(file, info);
    if (info.shape != slot->second.shape) {
      problems.add(
          cat(info.name, ": expected ", shape_to_string(slot->second.shape), ", got ", shape_to_string(info.shape)));
    } else if (!stored.is_floating_point() || !stored.isfinite().all().item<bool>()) {
      problems.add(info.name + ": holds values that are not finite numbers");
    }
    *slot->second.tensor = stored;
    slots.erase(slot);
  }
  for (const auto& [name, slot] : slots) problems.add(cat("missing ", name, " ", shape_to_string(slot.shape)));
  problems.report(file.path().string());
}

/// A file's mistake, though a setting of the same kind would be the user's.
template <typename Body>
auto in_file(const fs::path& file, const Body& body) {
  try {
    return body();
  } catch (const Error& e) {
    fail(ErrorCode::kBadInput, file.string(), ": ", e.what());
  }
}

void warn_of_large_ranks(const Adapter& adapter, const Shapes& shapes, const fs::path& file) {
  for (const LoraTensors& module : adapter.modules) {
    const std::vector<int64_t>& shape = shapes.at(module.module.path);
    if (module.module.r <= std::min(shape[0], shape[1])) continue;
    log_warning(cat(file.string(), ": rank ", module.module.r, " of ", module.module.path, " is more than its weight ",
                    shape_to_string(shape), " can have"));
    return;
  }
}

using Ranges = std::vector<std::pair<int64_t, int64_t>>;

std::string to_text(const Ranges& ranges) {
  std::string text;
  for (const auto& [first, last] : ranges) text += cat(text.empty() ? "[" : ", ", "[", first, ", ", last, "]");
  return text.empty() ? "each layer once" : text + "]";
}

std::vector<int64_t> layers_of(const Ranges& ranges) {
  std::vector<int64_t> out;
  for (const auto& [first, last] : ranges)
    for (int64_t layer = first; layer < last; ++layer) out.push_back(layer);
  return out;
}

// As many depths, and each over the stored layer that it was made for.
void check_replication(const LoraConfig& config, const ModelConfig& model, const fs::path& file) {
  const Ranges expected = model.recursive ? model.recursive->replication(model.num_hidden_layers) : Ranges();
  LIGER_CHECK(layers_of(config.layer_replication) == layers_of(expected), file.string(),
              ": 'layer_replication': expected ", to_text(expected), ", as the model runs its layers, got ",
              to_text(config.layer_replication), "; the adapter was made for other loops");
  const bool wants_norms = model.recursive && model.recursive->depth_norms;
  LIGER_CHECK(config.norms == wants_norms, file.string(), ": 'modules_to_save': expected ",
              wants_norms ? "the layers' norms, as the model's depths have their own" : "no norms",
              config.norms ? ", got norms" : ", got none");
  LIGER_CHECK(!wants_norms || config.more_norms == model.family->more_norms(), file.string(),
              ": 'modules_to_save': expected all norms of this model's layers and no others");
  const bool wants_biases = model.recursive && model.recursive->depth_biases;
  LIGER_CHECK(!config.biases || wants_biases, file.string(),
              ": 'bias' = \"lora_only\" is not supported where depths have "
              "no biases of their own; train without it, or merge the adapter with PEFT");
  LIGER_CHECK(config.biases || !wants_biases, file.string(),
              ": 'bias': expected \"lora_only\", as the model's depths have "
              "biases of their own, got \"none\"");
}

}  // namespace

std::vector<std::string> linear_paths(const CausalLM& model) { return paths_of(linear_modules(model)); }

Shapes linear_shapes(const ModelConfig& config) {
  const std::string suffix = ".weight";
  Shapes shapes;
  for (const ExpectedTensor& tensor : expected_tensors(config.unrolled())) {
    const bool is_matrix = tensor.shape.size() == 2 && tensor.name.ends_with(suffix);
    if (!is_matrix || tensor.name == config.family->embedding_weight()) continue;
    shapes[tensor.name.substr(0, tensor.name.size() - suffix.size())] = tensor.shape;
  }
  return shapes;
}

namespace {

Shapes shapes_where(bool (*holds)(const std::string&), const ModelConfig& config) {
  Shapes shapes;
  for (const ExpectedTensor& tensor : expected_tensors(config.unrolled()))
    if (holds(tensor.name)) shapes[tensor.name] = tensor.shape;
  return shapes;
}

}  // namespace

Shapes norm_shapes(const ModelConfig& config) { return shapes_where(is_layer_norm, config); }
Shapes bias_shapes(const ModelConfig& config) { return shapes_where(is_layer_bias, config); }

bool is_head(const std::string& path) { return path.find('.') == std::string::npos; }
bool is_lora(const std::string& name) { return name.find(".lora_") != std::string::npos; }

std::string peft_name(const std::string& parameter) {
  const bool matrix = parameter.ends_with(".lora_A") || parameter.ends_with(".lora_B");
  return kPeftPrefix + parameter + (matrix ? ".weight" : "");
}

bool is_mixer(const std::string& name) { return name.find(cat(".", kMixerModule, ".")) != std::string::npos; }

std::optional<int64_t> layer_of_head_numbers(const std::string& name) {
  if (!name.ends_with(cat(".", kMixerModule, ".weight"))) return {};
  const auto layer = layer_and_name(name);
  return layer ? std::optional(layer->first) : std::nullopt;
}

Shapes mixer_shapes(const ModelConfig& config) {
  Shapes shapes;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (config.is_softmax_layer(i) || !mix_settings(config, i).recurrence.structure) continue;
    for (const auto& [name, shape] : mixer_parameters(config))
      shapes[cat(config.family->layers(), i, ".", config.family->attention, ".", kMixerModule, ".", name)] = shape;
  }
  return shapes;
}

LoraConfig read_adapter_config(const fs::path& dir) {
  const fs::path file = dir / kAdapterConfig;
  LIGER_CHECK(fs::exists(file), dir.string(), ": no adapter_config.json there; expected a PEFT LoRA folder");
  return LoraConfig::from_peft_json(read_ordered_json(file), file.string());
}

fs::path own_adapter(const fs::path& dir, const ModelConfig& model) {
  const fs::path folder = dir / "adapter";
  if (!model.recursive) return {};
  const bool there = fs::exists(folder / kAdapterConfig);
  LIGER_CHECK(there || !model.recursive->adapter, dir.string(),
              ": config.json says that an adapter belongs to it, and ",
              "there is no adapter/adapter_config.json; copy the folder as a whole");
  return there ? folder : fs::path();
}

void replicate(ModelConfig& model, const LoraConfig& adapter, const fs::path& dir) {
  if (adapter.layer_replication.empty()) return;
  const int64_t stored = model.num_hidden_layers;
  const std::vector<int64_t> layers = layers_of(adapter.layer_replication);
  for (const Sharing sharing : {Sharing::kCycle, Sharing::kSequence, Sharing::kMiddleCycle, Sharing::kMiddleSequence}) {
    Recursion recursion{.loops = 2, .sharing = sharing, .depth_norms = adapter.norms, .depth_biases = adapter.biases};
    if (recursion.keeps_ends() && stored < 3) continue;
    const int64_t shared = recursion.keeps_ends() ? stored - 2 : stored, ends = recursion.keeps_ends() ? 2 : 0;
    recursion.loops = (std::ssize(layers) - ends) / shared;
    if (recursion.loops < 2 || recursion.depths(stored) != std::ssize(layers)) continue;
    if (layers_of(recursion.replication(std::ssize(layers))) != layers) continue;
    model.num_hidden_layers = std::ssize(layers);
    model.recursive = recursion;
    return;
  }
  fail(ErrorCode::kBadInput, (dir / kAdapterConfig).string(), ": 'layer_replication': expected all ", stored,
       " layers several times as a whole ([[0, ", stored, "], [0, ", stored,
       "]]), each several times in a row, or either of all but the first and the last; got ",
       to_text(adapter.layer_replication));
}

Adapter read_adapter(const fs::path& dir, const ModelConfig& model) {
  const Shapes shapes = linear_shapes(model);
  const fs::path config_file = dir / kAdapterConfig, weights_file = dir / "adapter_model.safetensors";
  Adapter adapter;
  adapter.config = read_adapter_config(dir);
  LIGER_CHECK(fs::exists(weights_file) || !fs::exists(dir / "adapter_model.bin"), dir.string(),
              ": adapter_model.bin is a pickle, which could run any code; save it with safe_serialization=True");
  check_replication(adapter.config, model, config_file);
  const std::vector<std::string> linears = paths_of(shapes);
  const auto modules = in_file(config_file, [&] { return lora_modules(adapter.config, linears); });
  for (const LoraModule& module : modules) adapter.modules.push_back({module, {}, {}, {}});
  warn_of_large_ranks(adapter, shapes, config_file);
  const SafetensorsFile file(weights_file);
  LIGER_CHECK(!adapter.config.mixer || !mixer_shapes(model).empty(), config_file.string(),
              ": 'modules_to_save': holds numbers of linearized layers' heads, and this model has no such layer");
  read_tensors(file, slots_of(adapter, shapes, saved_shapes(adapter.config, model)));
  return adapter;
}

LoraConfig add_lora(CausalLM& model, const LoraConfig& wanted) {
  const auto linears = linear_modules(model);
  LoraConfig config = expand_all_linear(wanted, paths_of(linears));
  if (const auto& recursion = model.config().recursive) {
    config.layer_replication = recursion->replication(model.config().num_hidden_layers);
    config.norms = recursion->depth_norms;
    config.more_norms = config.norms ? model.config().family->more_norms() : std::vector<std::string>();
    config.biases = recursion->depth_biases;
  }
  const auto modules = lora_modules(config, paths_of(linears));
  for (auto& parameter : model.parameters()) parameter.set_requires_grad(false);
  for (const LoraModule& module : modules) {
    Linear& linear = *linears.at(module.path);
    LIGER_CHECK_USAGE(!linear.has_lora(), module.path, " has an adapter already; one at a time");
    linear.add_lora(module, config);
  }
  if (config.mixer) {
    LIGER_CHECK_USAGE(!mixer_shapes(model.config()).empty(),
                      "lora: mixer: expected linearized layers with a recurrence, and this model has none");
    for (const auto& item : model.named_modules("", /*include_self=*/false))
      if (auto* layer = item.value()->as<TokenMixer>()) layer->add_head_scalars();
  }
  const Shapes saved = saved_shapes(config, model.config());
  for (auto& item : model.named_parameters())
    if (saved.contains(item.key())) item.value().set_requires_grad(true);
  return config;
}

void save_adapter(const CausalLM& model, const LoraConfig& config, const fs::path& dir) {
  std::map<std::string, at::Tensor> tensors;
  const Shapes saved = saved_shapes(config, model.config());
  for (const auto& item : model.named_parameters()) {
    if (is_lora(item.key()) || saved.contains(item.key())) tensors[peft_name(item.key())] = item.value();
  }
  save_tensors(dir / "adapter_model.safetensors", tensors);
  write_text_atomic(dir / kAdapterConfig, config.to_peft_json().dump(2) + "\n");
}

LoraConfig load_adapter(CausalLM& model, const fs::path& dir) {
  const auto linears = linear_modules(model);
  const Adapter adapter = read_adapter(dir, model.config());
  add_lora(model, adapter.config);
  const at::NoGradGuard no_grad;
  for (const LoraTensors& module : adapter.modules) {
    const Linear& linear = *linears.at(module.module.path);
    linear.lora_a().copy_(module.a);
    linear.lora_b().copy_(module.b);
    if (linear.has_dora()) linear.lora_magnitude().copy_(module.magnitude);
  }
  const auto parameters = model.named_parameters();
  for (const auto& [name, numbers] : adapter.saved) parameters[name].copy_(numbers);
  return adapter.config;
}

}  // namespace liger
