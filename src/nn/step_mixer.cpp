#include "nn/step_mixer.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "liger/error.h"
#include "liger/models/family.h"
#include "nn/mix_head.h"
#include "nn/mix_settings.h"

namespace liger {

StepMixer::StepMixer(const CausalLM& model)
    : config_(model.config()),
      Hkv_(config_.num_key_value_heads),
      D_(config_.head_dim),
      group_(config_.group_size()),
      element_(model.dtype() == at::kBFloat16 ? Element::kBFloat16 : Element::kFloat) {
  const auto parameters = model.named_parameters();
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const auto* numbers =
        parameters.find(cat(config_.family->layers(), i, ".", config_.family->attention, ".", kMixerModule, ".weight"));
    numbers_.push_back(numbers ? numbers->detach().to(at::kFloat).contiguous() : at::Tensor());
    mixes_.push_back(config_.is_softmax_layer(i) ? MixSettings{} : mix_settings(config_, i));
    CacheHead cache = {};
    cache.group = group_;
    cache.D = D_;
    const MixHead head = mix_head(mixes_.back(), 0, Hkv_, group_, D_);
    scratch_bytes_ = std::max({scratch_bytes_, kernels_.step.mix_scratch(head), kernels_.step.cache_scratch(cache)});
  }
}

void StepMixer::prepare(int64_t layer, int64_t S, int64_t needed, LayerState& memory) const {
  if (!config_.is_softmax_layer(layer)) {
    const MixSettings& m = mixes_[static_cast<size_t>(layer)];
    if (m.recurrence.structure && memory.recurrent.empty())
      for (const StateShape& shape : state_shapes(*m.recurrence.structure, D_))
        memory.recurrent.push_back(at::zeros({S, Hkv_, shape.rows, shape.columns}, at::kFloat));
    make_rings(m, S, Hkv_, D_, at::kFloat, memory);
    return;
  }
  for (at::Tensor* cache : {&memory.keys, &memory.values}) {  // doubling it
    const int64_t capacity = cache->defined() ? cache->size(1) : 0;
    if (needed <= capacity) continue;
    const auto type = element_ == Element::kBFloat16 ? at::kBFloat16 : at::kFloat;
    at::Tensor larger = at::zeros({S, std::max<int64_t>({needed, 2 * capacity, 64}), Hkv_, D_}, type);
    if (cache->defined()) larger.narrow(1, 0, capacity).copy_(*cache);
    *cache = larger;
  }
}

void StepMixer::head(int64_t layer, int64_t s, int64_t h, const MixerToken& token, const LayerState& memory,
                     void* scratch) const {
  if (config_.is_softmax_layer(layer)) return attend(layer, s, h, token, memory, scratch);
  const MixSettings& m = mixes_[static_cast<size_t>(layer)];
  const auto block = [&](const at::Tensor& tensor) -> void* {
    return tensor.mutable_data_ptr<float>() + (s * Hkv_ + h) * tensor.size(2) * tensor.size(3);
  };
  const auto& states = memory.recurrent;
  MixHead head = mix_head(m, h, Hkv_, group_, D_, numbers_[static_cast<size_t>(layer)]);
  head.element = Element::kFloat;
  head.tokens = 1;
  head.seen = token.seen;
  head.q = token.q + h * group_ * D_;
  head.k = token.k + h * D_;
  head.v = token.v + h * D_;
  head.cos = token.cos;
  head.sin = token.sin;
  kernels_.step.mix(
      head,
      {.o = token.o + h * group_ * D_,
       .states = {states.empty() ? nullptr : block(states[0]), states.size() < 2 ? nullptr : block(states[1])},
       .ring_keys = m.window > 0 ? block(memory.keys) : nullptr,
       .ring_values = m.window > 0 ? block(memory.values) : nullptr,
       .ring_raw_keys = m.beyond_window ? block(memory.raw_keys) : nullptr,
       .checkpoints = nullptr,
       .lse = nullptr},
      scratch);
}

void StepMixer::attend(int64_t layer, int64_t s, int64_t h, const MixerToken& token, const LayerState& memory,
                       void* scratch) const {
  const int64_t window = config_.window_of(layer);  // what lies before it is as if it were not there
  const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, token.seen + 1 - window);
  const auto cache = [&](const at::Tensor& tensor) -> void* {
    return static_cast<char*>(tensor.mutable_data_ptr()) +
           ((s * tensor.size(1) + first) * Hkv_ + h) * D_ * static_cast<int64_t>(tensor.element_size());
  };
  kernels_.step.cache({.element = element_,
                       .group = token.q ? group_ : 0,
                       .D = D_,
                       .seen = token.seen - first,
                       .q = token.q ? token.q + h * group_ * D_ : nullptr,
                       .k = token.k + h * D_,
                       .v = token.v + h * D_,
                       .cos = token.cos,
                       .sin = token.sin,
                       .keys = cache(memory.keys),
                       .values = cache(memory.values),
                       .stride = Hkv_ * D_,
                       .o = token.o + h * group_ * D_},
                      scratch);
}

}  // namespace liger
