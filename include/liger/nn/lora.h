#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "liger/core/model_config.h"
#include "liger/nn/lora_config.h"

namespace liger {

class CausalLM;

/// y = x W^T + bias + s * dropout(x) A^T B^T, the low-rank part only once add_lora() was called (LoRA, arXiv
/// 2106.09685). W [out, in] keeps its dtype and is frozen by add_lora; A [r, in] and B [out, r] are float32 (float64
/// in a float64 model), products with them run in x's dtype.
/// With a magnitude m [out] (DoRA, arXiv 2402.09353, eq. 5 and section 4.3; float32 as A and B):
///   y = m / |W + s B A| * (x' W^T + s x' A^T B^T) + bias + (x - x') W^T,   x' = dropout(x),
/// with the norm of each row, which no gradient runs through. Without dropout that is the layer of the weight
/// m / |W + s B A| * (W + s B A); with it, PEFT changes the adapter's share alone, as written here.
class Linear : public torch::nn::Module {
 public:
  Linear(int64_t in_features, int64_t out_features, bool bias, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x);
  /// Runs with the weight of another, and unless it keeps its own with the bias, which alone has them as parameters; an
  /// adapter is this one's own.
  void tie(const Linear& to, bool with_bias = true);
  /// A is drawn as PEFT does (Kaiming uniform, a = sqrt 5), B is zero, m is the norms of W's rows: the layer computes
  /// what it did before.
  void add_lora(const LoraModule& module, const LoraConfig& config);
  bool has_lora() const { return lora_a_.defined(); }
  bool has_dora() const { return magnitude_.defined(); }
  const at::Tensor& lora_a() const { return lora_a_; }             ///< [r, in]; undefined without LoRA
  const at::Tensor& lora_b() const { return lora_b_; }             ///< [out, r]
  const at::Tensor& lora_magnitude() const { return magnitude_; }  ///< [out]; undefined without DoRA
  double lora_scale() const { return scale_; }

  at::Tensor weight, bias;

 private:
  at::Tensor forward_dora(const at::Tensor& x) const;
  at::Tensor lora_a_, lora_b_, magnitude_;
  double scale_ = 0.0, dropout_ = 0.0;
};

/// Rows [first, first + n) of the weight that replaces W and its adapter, in the dtype of A:
/// W + s B A, with `magnitude` each row of it scaled to that norm. `weight` holds those rows, [n, in], of any dtype.
at::Tensor merged_rows(const at::Tensor& weight, int64_t first, const at::Tensor& a, const at::Tensor& b, double scale,
                       const at::Tensor& magnitude);

/// Paths of all linear modules, sorted.
std::vector<std::string> linear_paths(const CausalLM& model);

/// Adds a pair to every Linear that lora_modules() names, with config.mixer numbers of heads to layers that have none,
/// and freezes everything else. Returns the configuration as it
/// is to be stored. Throws as lora_modules().
LoraConfig add_lora(CausalLM& model, const LoraConfig& config);

/// The tensors of one module's adapter, mapped from the file.
struct LoraTensors {
  LoraModule module;
  at::Tensor a, b, magnitude;  ///< [r, in], [out, r], [out]; the last only with DoRA
};

/// A PEFT folder, read and found to fit a model.
struct Adapter {
  LoraConfig config;
  std::vector<LoraTensors> modules;
  /// What it holds whole, by name: with config.mixer what mixer_shapes() says, with config.norms what norm_shapes()
  /// does, with config.biases what bias_shapes() does.
  std::map<std::string, at::Tensor> saved;
};

/// Of a model of this shape, each depth on its own: its linear modules' weights, [out, in] by path; the norms of its
/// layers, and the biases of linear modules there, by name; and what its linearized layers have, or can be given,
/// beyond their projections, by name: "model.layers.0.self_attn.mixer.weight" [kHeadScalars, H], the numbers of heads,
/// and the parameters of layers that have new ones (LigerConfig).
std::map<std::string, std::vector<int64_t>> linear_shapes(const ModelConfig& config);
std::map<std::string, std::vector<int64_t>> norm_shapes(const ModelConfig& config);
std::map<std::string, std::vector<int64_t>> bias_shapes(const ModelConfig& config);
/// Whether the path is that of the output projection, the one linear module outside of the stack.
bool is_head(const std::string& path);
/// Whether a parameter of this name is of a pair or of its magnitude.
bool is_lora(const std::string& name);
std::map<std::string, std::vector<int64_t>> mixer_shapes(const ModelConfig& config);
/// Whether a parameter of this name is one of the latter; if it is the numbers of heads, their layer.
bool is_mixer(const std::string& name);
std::optional<int64_t> layer_of_head_numbers(const std::string& name);

/// adapter_config.json of a PEFT folder.
LoraConfig read_adapter_config(const std::filesystem::path& dir);

/// The folder of the adapter that a recursive model's folder brings along, DIR/adapter; empty if there is none.
/// Throws Error(kBadInput) if config.json says that one belongs to it.
std::filesystem::path own_adapter(const std::filesystem::path& dir, const ModelConfig& model);

/// Makes `model` run its layers as the adapter's layer_replication says, if it says anything. Throws Error(kBadInput)
/// for one that is no Sharing of this model's layers.
void replicate(ModelConfig& model, const LoraConfig& adapter, const std::filesystem::path& dir);

/// Reads adapter_config.json and adapter_model.safetensors of `dir` for a model. Strict: what the configuration says
/// against the model (its loops among it), and each tensor that is missing, not expected, misshapen or not finite, all
/// of them at once, is Error(kBadInput) that names the file. A rank above min(in, out) is warned of and run, as in
/// PEFT.
Adapter read_adapter(const std::filesystem::path& dir, const ModelConfig& model);

/// Of a parameter in a PEFT file: "base_model.model." + path + ".lora_A.weight" of a pair, + the name of all else.
std::string peft_name(const std::string& parameter);

/// adapter_config.json and adapter_model.safetensors in PEFT's own names ("base_model.model." + path +
/// ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"; ".weight" of a mixer; as they are) into `dir`, which
/// exists.
void save_adapter(const CausalLM& model, const LoraConfig& config, const std::filesystem::path& dir);

/// Adds the adapter of a PEFT folder to the model, and freezes everything else. Throws as read_adapter(). Returns its
/// configuration.
LoraConfig load_adapter(CausalLM& model, const std::filesystem::path& dir);

}  // namespace liger
