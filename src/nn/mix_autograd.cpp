#include "nn/mix_autograd.h"

#include <ATen/core/grad_mode.h>

namespace liger {

bool wants_gradient(const MixInputs& in) {
  bool wanted = in.q.requires_grad() || in.k.requires_grad() || in.v.requires_grad();
  for (const at::Tensor& state : in.states) wanted = wanted || state.requires_grad();
  return wanted && at::GradMode::is_enabled();
}

void save_settings(const MixSettings& settings, const std::vector<int64_t>& lengths,
                   torch::autograd::AutogradContext& context) {
  const LayerRecurrence& layer = settings.recurrence;
  context.saved_data["structure"] = layer.structure ? std::string(layer.structure->name) : std::string();
  context.saved_data["numbers"] = std::vector<double>{layer.gate_divisor, settings.window_share};
  context.saved_data["counts"] = std::vector<int64_t>{layer.layer, layer.layers, settings.window, settings.sinks};
  context.saved_data["lengths"] = lengths;
}

MixSettings saved_settings(torch::autograd::AutogradContext& context) {
  const auto structure = context.saved_data["structure"].toStringRef();
  const auto numbers = context.saved_data["numbers"].toDoubleVector();
  const auto counts = context.saved_data["counts"].toIntVector();
  return {{structure.empty() ? nullptr : find_structure(structure), numbers[0], counts[0], counts[1]},
          counts[2],
          counts[3],
          numbers[1]};
}

std::vector<int64_t> saved_lengths(torch::autograd::AutogradContext& context) {
  return context.saved_data["lengths"].toIntVector();
}

}  // namespace liger
