#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "liger/core/model_config.h"
#include "liger/nn/lora_config.h"

namespace liger {

/// How many numbers a model, its adapters and what is trained of both have, from config.json alone.
class ParameterSizes {
 public:
  /// `lora`: nothing = every parameter is trained, those of `own`, an adapter that is a part of the model, among them.
  /// Throws as lora_modules().
  ParameterSizes(const ModelConfig& config, const std::optional<LoraConfig>& lora,
                 const std::optional<LoraConfig>& own = {});

  int64_t model() const { return model_; }
  int64_t adapters() const { return adapters_; }
  int64_t trained() const { return all_ ? model_ + adapters_ : adapters_; }
  const std::vector<int64_t>& trained_tensors() const { return trained_tensors_; }
  /// By path of the module; none = every parameter is trained.
  const std::map<std::string, LoraModule>& adapted() const { return adapted_; }

 private:
  bool all_;
  int64_t model_ = 0, adapters_ = 0;
  std::vector<int64_t> trained_tensors_;
  std::map<std::string, LoraModule> adapted_;
};

}  // namespace liger
