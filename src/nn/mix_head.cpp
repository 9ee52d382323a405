#include "nn/mix_head.h"

namespace liger {

MixHead mix_head(const MixSettings& settings, int64_t h, int64_t kv_heads, int64_t group, int64_t D,
                 const at::Tensor& scalars) {
  const LayerRecurrence& r = settings.recurrence;
  MixHead head = {};
  head.group = group;
  head.D = D;
  head.structure = r.structure;
  head.divisor = r.structure ? r.divisor() : 1;
  if (r.structure && !r.structure->gated())
    head.constant_log_decay = constant_log_decay(*r.structure, h, kv_heads, r.layer, r.layers);
  head.window = settings.window;
  head.sinks = settings.sinks;
  head.window_share = settings.window_share;
  head.rotates_features = settings.rotates_features;
  head.beyond_window = settings.beyond_window;
  if (scalars.defined()) {
    const auto* first = static_cast<const char*>(scalars.const_data_ptr());
    const auto size = static_cast<int64_t>(scalars.element_size());
    head.scalars = first + h * group * size;
    head.kv_scalars = first + h * size;
    head.scalars_row = scalars.size(1);
  }
  return head;
}

}  // namespace liger
