#include <ATen/core/grad_mode.h>

#include "convert/tied_weights.h"
#include "liger/convert/tie.h"
#include "liger/core/checkpoint.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"

namespace liger {

std::shared_ptr<CausalLM> tied_model(const std::filesystem::path& model, const TieOptions& options, KeptEnergy* kept) {
  const WeightFiles files(model);
  TiedWeights tied(files, ModelConfig::read(model), options, {});
  const std::vector<TensorInfo> base = tied.base_tensors(), adapter = tied.adapter_tensors();
  const auto type = to_scalar_type(base.front().dtype);
  auto out = std::make_shared<CausalLM>(tied.config(), at::TensorOptions(type));
  const at::NoGradGuard no_grad;
  if (!adapter.empty()) add_lora(*out, tied.adapter_config());
  std::map<std::string, at::Tensor> parameters;  // by the names of files
  for (auto& item : out->named_parameters()) {
    const std::string peft = peft_name(item.key());
    // What depths have of their own is read from the adapter; a slot's is then that of its first depth.
    if (!is_lora(item.key())) parameters.emplace(tied.config().stored_name(item.key()), item.value());
    parameters.emplace(peft, item.value());
  }
  for (const TensorInfo& tensor : base) {
    const auto* stored = files.find(tensor.name);
    parameters.at(tensor.name)
        .copy_(layer_and_name(tensor.name) ? tied.make(tensor) : map_tensor(*stored->file, *stored->info));
  }
  for (const TensorInfo& tensor : adapter) parameters.at(tensor.name).copy_(tied.make(tensor));
  if (kept != nullptr) *kept = tied.kept();
  out->eval();
  return out;
}

}  // namespace liger
