#include "liger/nn/causal_lm.h"

#include <ATen/ops/empty.h>

#include <cmath>

#include "liger/core/checkpoint.h"
#include "liger/error.h"
#include "liger/io/log.h"
#include "liger/models/check_weights.h"
#include "liger/nn/adapter_base.h"
#include "liger/nn/lora.h"
#include "liger/ops/linear.h"
#include "liger/ops/ops.h"
#include "nn/decoder.h"
#include "nn/mix_settings.h"

namespace liger {
namespace {

at::ScalarType stored_type(const WeightFiles& files, const ModelConfig& config) {
  return to_scalar_type(files.find(config.family->embedding_weight())->info->dtype);
}

bool writes_residual(const std::string& name, const Family& family) {
  return name.ends_with(cat(family.attention_output, ".weight")) || name.ends_with(cat(family.mlp_output, ".weight"));
}

// Matrices with the deviation Hugging Face uses, smaller where they write into the residual stream, which sums two
// branches a layer (GPT-2, 2.3); vectors are norms (neutral) and biases (zero).
void randomize(torch::nn::Module& model, const ModelConfig& config) {
  at::NoGradGuard no_grad;
  const double residual_scale = 1.0 / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
  for (auto& item : model.named_parameters()) {
    if (is_mixer(item.key())) continue;
    at::Tensor& parameter = item.value();
    if (parameter.dim() > 1) {
      parameter.normal_(
          0.0, config.initializer_range * (writes_residual(item.key(), *config.family) ? residual_scale : 1.0));
    } else {
      const bool gain = item.key().find("norm") != std::string::npos && item.key().ends_with(".weight");
      parameter.fill_(gain && !config.family->norm_adds_one ? 1.0 : 0.0);
    }
  }
}

}  // namespace

CausalLM::CausalLM(Uninitialized, ModelConfig config, const at::TensorOptions& options) : config_(std::move(config)) {
  model_ = register_module(config_.family->model, std::make_shared<Decoder>(config_, options));
  if (!config_.tie_word_embeddings) {
    lm_head_ = register_module(config_.family->head,
                               std::make_shared<Linear>(config_.hidden_size, config_.vocab_size, false, options));
  }
}

CausalLM::CausalLM(ModelConfig config, at::TensorOptions options)
    : CausalLM(Uninitialized{}, std::move(config), options) {
  randomize(*this, config_);
}

std::shared_ptr<CausalLM> CausalLM::load(const std::filesystem::path& dir, const LoadOptions& options) {
  ModelConfig config = ModelConfig::read(dir);
  std::filesystem::path adapter = options.adapter;
  if (adapter.empty() && options.own_adapter) adapter = own_adapter(dir, config);
  if (!adapter.empty() && !config.recursive) replicate(config, read_adapter_config(adapter), adapter);
  if (options.liger) config.liger = options.liger;
  if (options.softmax) config.liger.reset();
  config.backend = options.backend;
  if (config.liger) validate(*config.liger, config, "liger");
  const WeightFiles files(dir);
  check_weights(files, config, dir.string());
  const at::ScalarType dtype = options.dtype.value_or(stored_type(files, config));

  // The storage is never touched before the mapped tensors replace it, so it costs address space only.
  std::shared_ptr<CausalLM> model(new CausalLM(Uninitialized{}, std::move(config), at::TensorOptions(dtype)));
  at::NoGradGuard no_grad;
  const Recursion loops = model->config().recursive.value_or(Recursion());
  for (auto& item : model->named_parameters()) {
    if (is_mixer(item.key())) {  // made with the layer
      item.value().set_data(item.value().to(options.device));
      continue;
    }
    const auto* entry = files.find(model->config().stored_name(item.key()));
    const bool of_depth = (loops.depth_norms && is_layer_norm(item.key())) ||  // one in the file is several here
                          (loops.depth_biases && is_layer_bias(item.key()));
    item.value().set_data(map_tensor(*entry->file, *entry->info).to(options.device, dtype, false, /*copy=*/of_depth));
  }
  if (!adapter.empty()) {
    load_adapter(*model, adapter);
    const std::string warning = other_base(adapter, dir, model->config().liger);
    if (!warning.empty()) log_warning(warning);
  }
  model->eval();
  return model;
}

std::shared_ptr<CausalLM> CausalLM::teacher() const {
  ModelConfig config = config_;
  config.liger.reset();
  if (config.recursive) config.recursive->depth_norms = config.recursive->depth_biases = false;
  std::shared_ptr<CausalLM> out(new CausalLM(Uninitialized{}, std::move(config), at::TensorOptions(dtype())));
  const auto ours = named_parameters();
  at::NoGradGuard no_grad;
  for (auto& item : out->named_parameters()) {
    item.value().set_data(ours[item.key()].detach());
    item.value().set_requires_grad(false);
  }
  out->eval();
  return out;
}

ModelConfig CausalLM::config_as_trained() const {
  ModelConfig out = config_;
  const auto parameters = named_parameters();
  for (const auto& item : parameters)
    if (const auto layer = layer_of_head_numbers(item.key()))
      set_head_scalars(*out.liger, config_, *layer, item.value());
  return out;
}

at::ScalarType CausalLM::dtype() const { return model_->embedding().scalar_type(); }
at::Device CausalLM::device() const { return model_->embedding().device(); }

at::Tensor CausalLM::hidden_states(const Sequences& tokens, DecodingState* state) {
  return model_->forward(tokens, state);
}

std::vector<at::Tensor> CausalLM::exit_states(const Sequences& tokens) { return model_->exits(tokens); }

void CausalLM::checkpoint_layers(bool on) { model_->checkpoint_layers(on); }

at::Tensor CausalLM::logits(const at::Tensor& hidden) {
  return softcap(liger::linear(hidden, head_weight()), config_.logit_softcap);
}

at::Tensor CausalLM::head_weight() const { return lm_head_ ? lm_head_->weight : model_->embedding(); }

void CausalLM::save_weights(const std::filesystem::path& file, std::optional<at::ScalarType> dtype) const {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : named_parameters())
    if (!is_lora(item.key()) && !is_mixer(item.key()))  // of what each depth has, the first of a slot
      tensors.emplace(config_.stored_name(item.key()), dtype ? item.value().to(*dtype) : item.value());
  save_tensors(file, tensors);
}

}  // namespace liger
