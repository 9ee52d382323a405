#include "liger/nn/lora.h"

#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "liger/core/checkpoint.h"
#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "liger/ops/linear.h"

namespace liger {
namespace {

const std::string kPeftPrefix = "base_model.model.";

bool matches(const std::string& path, const std::vector<std::string>& targets) {
  return std::any_of(targets.begin(), targets.end(), [&](const std::string& target) {
    return path == target || path.ends_with("." + target);
  });
}

// All trainable pairs by PEFT's names.
std::map<std::string, at::Tensor> adapter_tensors(const CausalLM& model) {
  std::map<std::string, at::Tensor> out;
  for (const auto& item : model.named_parameters())
    if (item.key().find(".lora_") != std::string::npos) out.emplace(kPeftPrefix + item.key() + ".weight", item.value());
  return out;
}

std::string without_adapter_name(std::string name) {  // "lora_A.default.weight" is PEFT's name in memory
  if (const size_t at = name.rfind(".default."); at != std::string::npos) name.erase(at, std::string(".default").size());
  return name;
}

}  // namespace

double LoraConfig::scale() const {
  const double rank = static_cast<double>(r);
  return alpha / (rslora ? std::sqrt(rank) : rank);
}

Linear::Linear(int64_t in_features, int64_t out_features, bool with_bias, const at::TensorOptions& options) {
  weight = register_parameter("weight", at::empty({out_features, in_features}, options));
  if (with_bias) bias = register_parameter("bias", at::empty({out_features}, options));
}

at::Tensor Linear::forward(const at::Tensor& x) {
  if (!has_lora()) return liger::linear(x, weight, bias);
  if (dropout_ == 0 || !is_training()) return lora_linear(x, weight, bias, lora_a_, lora_b_, scale_);
  const auto type = x.scalar_type();
  const at::Tensor dropped = at::dropout(x, dropout_, /*train=*/true);
  return liger::linear(x, weight, bias) +
         liger::linear(liger::linear(dropped, lora_a_.to(type)), lora_b_.to(type)) * scale_;
}

void Linear::add_lora(const LoraConfig& config) {
  const auto options = weight.options().dtype(wide_type(weight));
  const int64_t in = weight.size(1), out = weight.size(0);
  // Kaiming uniform with a = sqrt 5 is uniform in +-1/sqrt(in).
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  lora_a_ = register_parameter("lora_A", at::empty({config.r, in}, options).uniform_(-bound, bound));
  lora_b_ = register_parameter("lora_B", at::zeros({out, config.r}, options));
  scale_ = config.scale();
  dropout_ = config.dropout;
}

void add_lora(CausalLM& model, const LoraConfig& config) {
  LIGER_CHECK_USAGE(config.r >= 1, "lora: r: expected 1 or more, got ", config.r);
  LIGER_CHECK_USAGE(std::isfinite(config.alpha), "lora: alpha: expected a number, got ", config.alpha);
  LIGER_CHECK_USAGE(config.dropout >= 0 && config.dropout < 1, "lora: dropout: expected a share from 0 to below 1, got ",
                    config.dropout);
  for (auto& parameter : model.parameters()) parameter.set_requires_grad(false);
  std::vector<std::string> linears;
  std::vector<bool> used(config.targets.size(), false);
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    auto* linear = item.value()->as<Linear>();
    if (!linear) continue;
    linears.push_back(item.key());
    if (!matches(item.key(), config.targets)) continue;
    for (size_t i = 0; i < used.size(); ++i) used[i] = used[i] || matches(item.key(), {config.targets[i]});
    LIGER_CHECK_USAGE(!linear->has_lora(), item.key(), " has an adapter already; one at a time");
    linear->add_lora(config);
  }
  for (size_t i = 0; i < used.size(); ++i)
    LIGER_CHECK_USAGE(used[i], "lora: target '", config.targets[i],
                      "' matches no linear module of the model; expected for example '",
                      linears.front().substr(linears.front().rfind('.') + 1), "'");
}

void save_adapter(const CausalLM& model, const LoraConfig& config, const std::filesystem::path& dir) {
  auto tensors = adapter_tensors(model);
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kFloat);
  save_tensors(dir / "adapter_model.safetensors", tensors);
  write_text_atomic(dir / "adapter_config.json", config.to_peft_json().dump(2) + "\n");
}

LoraConfig load_adapter(CausalLM& model, const std::filesystem::path& dir) {
  const auto config_file = dir / "adapter_config.json", weights_file = dir / "adapter_model.safetensors";
  LIGER_CHECK(std::filesystem::exists(config_file), dir.string(),
              ": no adapter_config.json there; expected a PEFT LoRA folder");
  const LoraConfig config = LoraConfig::from_peft_json(read_json(config_file), config_file.string());
  const SafetensorsFile file(weights_file);
  add_lora(model, config);

  at::NoGradGuard no_grad;
  auto wanted = adapter_tensors(model);
  std::vector<std::string> problems;
  for (const TensorInfo& info : file.tensors()) {
    auto it = wanted.find(without_adapter_name(info.name));
    if (it == wanted.end()) {
      problems.push_back("unexpected " + info.name);
      continue;
    }
    const at::Tensor stored = map_tensor(file, info);
    if (stored.sizes() != it->second.sizes()) {
      problems.push_back(cat(info.name, ": expected ", it->second.sizes(), ", got ", stored.sizes()));
    } else if (!stored.is_floating_point() || !stored.isfinite().all().item<bool>()) {
      problems.push_back(info.name + ": holds values that are not finite numbers");
    } else {
      it->second.copy_(stored);
    }
    wanted.erase(it);
  }
  for (const auto& [name, tensor] : wanted) problems.push_back(cat("missing ", name, " ", tensor.sizes()));
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(problems.size(), 20); ++i) text += (i ? "; " : "") + problems[i];
  LIGER_CHECK(problems.empty(), weights_file.string(), ": ", problems.size(), " tensors do not fit the model: ", text);
  return config;
}

}  // namespace liger
