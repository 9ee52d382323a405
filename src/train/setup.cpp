#include <ATen/Context.h>

#include "liger/core/device.h"
#include "liger/core/dtype.h"
#include "liger/core/hub.h"
#include "liger/error.h"
#include "liger/io/log.h"
#include "liger/nn/adapter_base.h"
#include "liger/train/trainer.h"
#include "train/parameter_sizes.h"
#include "train/token_cache.h"

namespace liger {
namespace {

/// The Liger layers to run with: config.json's, with what the options say instead.
std::optional<LigerConfig> mixer(const ModelOptions& options, const ModelConfig& config) {
  std::optional<LigerConfig> liger = config.liger;
  if (options.attention == Attention::kSoftmax) liger.reset();
  if (options.attention == Attention::kLigerGla && !liger) liger = LigerConfig{};
  const bool changed = options.window || options.sinks || options.mix || options.gate_divisor;
  LIGER_CHECK_USAGE(liger || !changed, "model: window, sinks, mix and gate_divisor belong to Liger layers, and ",
                    options.path, " has softmax attention; set model.attention to liger_gla, or convert it first");
  if (!liger) return liger;
  liger->window = options.window.value_or(liger->window);
  liger->sinks = options.sinks.value_or(liger->sinks);
  liger->mix = options.mix.value_or(liger->mix);
  liger->gate_divisor = options.gate_divisor.value_or(liger->gate_divisor);
  return liger;
}

LoraConfig lora_config(const LoraOptions& options, const std::string& base) {
  LoraConfig config = options;
  config.base_model_name_or_path = base;
  return config;
}

/// An adapter that training goes on from is the one the options describe.
void check_same(const LoraConfig& adapter, const LoraConfig& wanted, const std::string& where) {
  const OrderedJson has = adapter.to_peft_json(), asked = wanted.to_peft_json();
  for (const OrderedJson* keys : {&has, &asked}) {
    for (const auto& item : keys->items()) {
      const std::string& key = item.key();
      const auto value = [&](const OrderedJson& json) { return json.contains(key) ? json[key].dump() : "not set"; };
      LIGER_CHECK_USAGE(key == "base_model_name_or_path" || value(has) == value(asked), where, ": its ", key, " is ",
                        value(has), ", but the settings under lora make it ", value(asked));
    }
  }
}

/// LoRA+ (arXiv 2402.12354): B learns faster than A; PEFT counts DoRA's magnitudes with B.
double lr_ratio(const std::string& parameter, const FinetuneOptions& options) {
  const bool faster = parameter.ends_with(".lora_B") || parameter.ends_with(".lora_magnitude_vector");
  if (options.lora && is_mixer(parameter)) return options.lora->mixer_ratio;
  return options.lora && faster ? options.lora->plus_ratio : 1.0;
}

/// A recursive model's adapter is a part of it: trained alone, or with everything else.
void find_own_adapter(TrainingSetup& setup) {
  std::optional<LoraOptions>& lora = setup.options.lora;
  const std::filesystem::path own = liger::own_adapter(setup.base, setup.base_config);
  const std::string where = setup.base.string();
  LIGER_CHECK_USAGE(!lora || !lora->own || !own.empty(), where,
                    ": lora.own: brings no adapter along; expected a recursive model with one");
  if (own.empty()) return;
  LIGER_CHECK_USAGE(!lora || lora->own || setup.options.model.adapter, where,
                    ": this model brings an adapter of its depths along; set lora.own to true to train that, "
                    "or lora to null to train everything");
  LIGER_CHECK_USAGE(!lora || !lora->own || !setup.options.model.adapter,
                    "model.adapter: lora.own says that the model's own adapter is trained; set one of the two");
  if (!lora)
    setup.own_adapter = read_adapter_config(own);
  else if (lora->own)
    static_cast<LoraConfig&>(*lora) = read_adapter_config(own);
}

void check_loops(const TrainingSetup& setup) {
  const auto& recursive = setup.base_config.recursive;
  LIGER_CHECK_USAGE(!setup.options.exits || (recursive && recursive->runs_in_loops()), setup.base.string(),
                    ": exits: expected a recursive model whose loops run one after the other (sharing cycle or "
                    "middle-cycle)");
  LIGER_CHECK_USAGE(!setup.options.distill || setup.options.distill->teacher || !recursive, setup.base.string(),
                    ": distill: a recursive model is not its own teacher; set distill.teacher to the model it was made "
                    "of");
}

/// The one that distill.teacher names, or the base with softmax attention.
std::shared_ptr<CausalLM> load_teacher(const TrainingSetup& setup, std::optional<at::ScalarType> dtype) {
  const std::optional<std::string>& named = setup.options.distill->teacher;
  LoadOptions load;
  load.dtype = dtype;
  load.device = device_from_string(setup.options.model.device);
  load.softmax = !named;
  const auto teacher = CausalLM::load(named ? resolve_model(*named) : setup.base, load);
  LIGER_CHECK(teacher->config().vocab_size == setup.base_config.vocab_size, *named, ": distill.teacher: has ",
              teacher->config().vocab_size, " tokens, and the model ", setup.base_config.vocab_size,
              "; expected the same vocabulary");
  const ModelConfig &ours = setup.base_config, &theirs = teacher->config();
  LIGER_CHECK(setup.options.distill->attention_steps == 0 ||
                  (!theirs.liger && theirs.num_hidden_layers == ours.num_hidden_layers &&
                   theirs.hidden_size == ours.hidden_size),
              named.value_or(""), ": distill.attention_steps: expected a teacher with softmax attention, ",
              ours.num_hidden_layers, " layers and a hidden_size of ", ours.hidden_size);
  return teacher;
}

void load_rows(TrainingSetup& setup) {
  const DataOptions& data = setup.options.data;
  setup.tokens = std::make_shared<TokenCache>(setup.options, setup.base, setup.tokenizer, setup.base_config.vocab_size);
  const auto [training, sha256] = setup.tokens->open(data.train);
  setup.data_sha256 = sha256;
  const int64_t held_out = data.val ? 0 : data.val_size;
  LIGER_CHECK(held_out < training->rows(), data.train, ": its ", training->rows(),
              " rows leave nothing to train on, "
              "as data.val_size ",
              held_out, " of them are for validation; set it lower, or 0 for none");
  setup.train = std::make_shared<const Dataset>(training, held_out, training->rows(), data);
  if (data.val) {
    const auto validation = setup.tokens->open(*data.val).corpus;
    setup.validation = std::make_shared<const Dataset>(validation, 0, validation->rows(), data);
  } else if (held_out > 0) {
    setup.validation = std::make_shared<const Dataset>(training, 0, held_out, data);
  }
}

}  // namespace

TrainingSetup TrainingSetup::load_data(const FinetuneOptions& options) {
  TrainingSetup setup;
  setup.options = options;
  setup.base = resolve_model(options.model.path);
  setup.base_config = ModelConfig::read(setup.base);
  find_own_adapter(setup);
  check_loops(setup);
  setup.tokenizer = Tokenizer::load(setup.base);
  load_rows(setup);
  const int64_t positions = setup.base_config.max_position_embeddings, longest = options.data.max_length;
  if (setup.base_config.has_softmax_layers() && positions > 0 && longest > positions) {
    log_warning(
        cat("data.max_length ", longest, " is more than the ", positions, " positions this model was trained for"));
  }
  const int64_t batch = options.train.batch_size;
  setup.steps_per_epoch = (setup.train->size() + batch - 1) / batch;
  setup.total_steps = options.train.max_steps.value_or(options.train.epochs * setup.steps_per_epoch);
  return setup;
}

ModelConfig TrainingSetup::model_config() const {
  ModelConfig config = base_config;
  config.backend = options.model.backend;
  config.liger = mixer(options.model, config);
  if (config.liger) validate(*config.liger, config, "liger");
  return config;
}

void TrainingSetup::load_model(const std::filesystem::path& checkpoint) {
  const bool full = !options.lora;
  std::optional<at::ScalarType> dtype;
  if (options.model.dtype) dtype = scalar_type_from_string(*options.model.dtype);
  if (full && !dtype) dtype = at::kFloat;
  const at::Device device = device_from_string(options.model.device);
  const ModelConfig config = model_config();
  LIGER_CHECK_USAGE(
      !full || !config.liger || !config.liger->has_new_parameters(), options.model.path,
      ": its layers have parameters that only adapters hold (a random gate or learned features); set lora");
  LIGER_CHECK_USAGE(!options.distill || options.distill->attention_steps == 0 || config.liger,
                    "distill.attention_steps: expected linearized layers, and ", options.model.path,
                    " has softmax attention");

  at::manual_seed(static_cast<uint64_t>(options.train.seed));
  const bool all_from_checkpoint = full && !checkpoint.empty();
  if (options.model.init == Init::kRandom && !all_from_checkpoint) {
    model = std::make_shared<CausalLM>(config, at::TensorOptions(dtype.value_or(at::kFloat)).device(device));
    if (own_adapter) add_lora(*model, *own_adapter);
  } else {
    LoadOptions load;
    load.dtype = dtype;
    load.device = device;
    load.backend = options.model.backend;
    load.liger = config.liger;
    load.softmax = !config.liger;
    load.own_adapter = full;
    model = CausalLM::load(all_from_checkpoint ? checkpoint : base, load);
  }
  model->checkpoint_layers(options.train.activation_checkpointing == ActivationCheckpointing::kFull);
  if (full) {
    for (at::Tensor& parameter : model->parameters()) parameter.set_requires_grad(true);
    if (options.distill) teacher = load_teacher(*this, dtype);
    return;
  }
  if (options.distill) teacher = options.distill->teacher ? load_teacher(*this, dtype) : model->teacher();
  const LoraConfig wanted = lora_config(*options.lora, options.model.path);
  adapter_base = liger::adapter_base(base, config.liger);
  const std::filesystem::path first = options.lora->own ? liger::own_adapter(base, base_config)
                                                        : std::filesystem::path(options.model.adapter.value_or(""));
  const std::filesystem::path adapter = checkpoint.empty() ? first : checkpoint;
  if (adapter.empty()) {
    lora = add_lora(*model, wanted);
  } else {
    lora = load_adapter(*model, adapter);
    if (const std::string warning = other_base(adapter, base, config.liger); !warning.empty()) log_warning(warning);
    LoraConfig asked = expand_all_linear(wanted, linear_paths(*model));
    asked.layer_replication = lora->layer_replication;  // the model's, which it was checked against
    asked.norms = lora->norms;
    asked.more_norms = lora->more_norms;
    asked.biases = lora->biases;
    check_same(*lora, asked, adapter.string());
    lora->base_model_name_or_path = wanted.base_model_name_or_path;
  }
}

std::vector<NamedParameter> TrainingSetup::trainable() const {
  std::vector<NamedParameter> out;
  for (const auto& item : model->named_parameters()) {
    if (!item.value().requires_grad()) continue;
    out.push_back({item.key(), item.value(), lr_ratio(item.key(), options), !is_mixer(item.key())});
  }
  return out;
}

TrainingSetup::Counts TrainingSetup::parameter_counts() const {
  const ParameterSizes sizes(base_config, options.lora, own_adapter);
  return {sizes.model() + sizes.adapters(), sizes.trained()};
}

}  // namespace liger
