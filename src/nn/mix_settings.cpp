#include "nn/mix_settings.h"

#include "liger/error.h"

namespace liger {

MixSettings mix_settings(const ModelConfig& config, int64_t layer) {
  const LigerConfig& liger = *config.liger;
  const double share = liger.window_share();
  MixSettings out = {.recurrence = {.structure = nullptr,
                                    .gate_divisor = liger.gate_divisor,
                                    .layer = layer,
                                    .layers = config.num_hidden_layers},
                     .window = share > 0 ? liger.window : 0,
                     .sinks = share > 0 ? liger.sinks : 0,
                     .window_share = share};
  if (share == 1) return out;
  out.recurrence.structure = find_structure(liger.recurrence);
  LIGER_CHECK(out.recurrence.structure != nullptr, "recurrence '", liger.recurrence, "' is not known");
  return out;
}

}  // namespace liger
