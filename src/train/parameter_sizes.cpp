#include "train/parameter_sizes.h"

#include <functional>
#include <numeric>

#include "liger/models/family.h"

namespace liger {
namespace {

const std::string kWeight = ".weight";

/// Matrices are linear modules, except the embedding.
bool is_linear(const ExpectedTensor& tensor) {
  return tensor.shape.size() == 2 && tensor.name.ends_with(kWeight) && !tensor.name.ends_with("embed_tokens.weight");
}

}  // namespace

ParameterSizes::ParameterSizes(const ModelConfig& config, const std::optional<LoraConfig>& lora) {
  std::map<std::string, std::vector<int64_t>> linears;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const int64_t numbers = std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
    model_ += numbers;
    if (!lora) trained_tensors_.push_back(numbers);
    if (is_linear(tensor)) linears[tensor.name.substr(0, tensor.name.size() - kWeight.size())] = tensor.shape;
  }
  if (!lora) return;
  std::vector<std::string> paths;
  for (const auto& [path, shape] : linears) paths.push_back(path);
  for (const LoraModule& module : lora_modules(*lora, paths)) {
    const int64_t out = linears[module.path][0], in = linears[module.path][1];
    trained_tensors_.push_back(module.r * in);
    trained_tensors_.push_back(out * module.r);
    if (lora->dora) trained_tensors_.push_back(out);
    adapted_[module.path] = module;
  }
  adapters_ = std::accumulate(trained_tensors_.begin(), trained_tensors_.end(), int64_t{0});
}

}  // namespace liger
