#include "nn/mix_autograd.h"

#include <ATen/core/grad_mode.h>

namespace liger {
namespace {

struct KeptSettings : torch::CustomClassHolder {
  explicit KeptSettings(const MixSettings& s) : settings(s) {}
  MixSettings settings;
};

}  // namespace

bool wants_gradient(const MixInputs& in) {
  bool wanted = in.q.requires_grad() || in.k.requires_grad() || in.v.requires_grad() ||
                (in.scalars.defined() && in.scalars.requires_grad());
  for (const at::Tensor& state : in.states) wanted = wanted || state.requires_grad();
  return wanted && at::GradMode::is_enabled();
}

void save_settings(const MixSettings& settings, const std::vector<int64_t>& lengths,
                   torch::autograd::AutogradContext& context) {
  context.saved_data["settings"] = c10::IValue::make_capsule(c10::make_intrusive<KeptSettings>(settings));
  context.saved_data["lengths"] = lengths;
}

MixSettings saved_settings(torch::autograd::AutogradContext& context) {
  return c10::static_intrusive_pointer_cast<KeptSettings>(context.saved_data["settings"].toCapsule())->settings;
}

std::vector<int64_t> saved_lengths(torch::autograd::AutogradContext& context) {
  return context.saved_data["lengths"].toIntVector();
}

}  // namespace liger
