#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "liger/io/json.h"

namespace liger {

class CausalLM;

/// A PEFT LoRA configuration, the part this library runs.
struct LoraConfig {
  int64_t r = 8;
  double alpha = 8.0;
  double dropout = 0.0;
  std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj"};  ///< names a module's path must end with
  bool rslora = false;                        ///< scale alpha / sqrt(r) instead of alpha / r
  std::string base_model_name_or_path;        ///< written to adapter_config.json

  double scale() const;
  /// Strict: an unsupported PEFT option that is on (DoRA, bias, patterns ...) throws Error(kBadInput) naming it.
  static LoraConfig from_peft_json(const Json& config, const std::string& source);
  OrderedJson to_peft_json() const;
};

/// y = x W^T + bias + s * dropout(x) A^T B^T, the low-rank part only once add_lora() was called (LoRA, arXiv
/// 2106.09685). W [out, in] keeps its dtype and is frozen by add_lora; A [r, in] and B [out, r] are float32 (float64
/// in a float64 model), products with them run in x's dtype.
class Linear : public torch::nn::Module {
 public:
  Linear(int64_t in_features, int64_t out_features, bool bias, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x);
  /// A is drawn as PEFT does (Kaiming uniform, a = sqrt 5), B is zero.
  void add_lora(const LoraConfig& config);
  bool has_lora() const { return lora_a_.defined(); }
  const at::Tensor& lora_a() const { return lora_a_; }  ///< [r, in]; undefined without LoRA
  const at::Tensor& lora_b() const { return lora_b_; }  ///< [out, r]
  double lora_scale() const { return scale_; }

  at::Tensor weight, bias;

 private:
  at::Tensor lora_a_, lora_b_;
  double scale_ = 0.0, dropout_ = 0.0;
};

/// Adds a pair to every Linear whose path matches `config.targets`, and freezes everything else.
/// Throws Error(kUsage) if a target matches nothing.
void add_lora(CausalLM& model, const LoraConfig& config);

/// adapter_config.json and adapter_model.safetensors in PEFT's own names ("base_model.model." + path +
/// ".lora_A.weight", float32) into `dir`, which exists.
void save_adapter(const CausalLM& model, const LoraConfig& config, const std::filesystem::path& dir);

/// Adds the adapter of a PEFT folder to the model. Strict: every missing, extra, misshapen or non-finite tensor is
/// reported at once as Error(kBadInput). Returns its configuration.
LoraConfig load_adapter(CausalLM& model, const std::filesystem::path& dir);

}  // namespace liger
