#include "train/parameter_sizes.h"

#include <c10/util/accumulate.h>

#include <numeric>

#include "liger/models/family.h"
#include "liger/nn/lora.h"

namespace liger {

ParameterSizes::ParameterSizes(const ModelConfig& config, const std::optional<LoraConfig>& trained,
                               const std::optional<LoraConfig>& own)
    : all_(!trained) {
  const std::optional<LoraConfig>& lora = trained ? trained : own;
  const auto count = [](const std::vector<int64_t>& shape) { return c10::multiply_integers(shape); };
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const int64_t numbers = count(tensor.shape);
    model_ += numbers;
    if (all_) trained_tensors_.push_back(numbers);
  }
  if (!lora) return;
  const auto linears = linear_shapes(config);
  std::vector<std::string> paths;
  for (const auto& [path, shape] : linears) paths.push_back(path);
  for (const LoraModule& module : lora_modules(*lora, paths)) {
    const int64_t out = linears.at(module.path)[0], in = linears.at(module.path)[1];
    trained_tensors_.push_back(module.r * in);
    trained_tensors_.push_back(out * module.r);
    if (lora->dora) trained_tensors_.push_back(out);
    adapted_[module.path] = module;
  }
  if (lora->mixer)
    for (const auto& [name, shape] : mixer_shapes(config)) trained_tensors_.push_back(count(shape));
  if (lora->norms)  // a slot's are counted with the model
    for (const auto& [name, shape] : norm_shapes(config)) trained_tensors_.push_back(count(shape));
  if (lora->biases)
    for (const auto& [name, shape] : bias_shapes(config)) trained_tensors_.push_back(count(shape));
  adapters_ = std::accumulate(trained_tensors_.begin(), trained_tensors_.end(), int64_t{0}) - (all_ ? model_ : 0);
}

}  // namespace liger
