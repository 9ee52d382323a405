#include "nn/mix_settings.h"

#include <ATen/ops/zeros.h>

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
  if (out.window > 0) out.softcap = config.attention_softcap;
  if (share == 1) return out;
  const Structure* structure = find_structure(liger.recurrence);
  LIGER_CHECK(structure != nullptr, "recurrence '", liger.recurrence, "' is not known");
  out.recurrence.structure = with_choices(*structure, liger.features_of(layer), liger.normalizer);
  out.rotates_features = liger.rope_features;
  out.beyond_window = liger.beyond_window && out.window > 0;
  return out;
}

std::map<std::string, std::vector<int64_t>> mixer_parameters(const ModelConfig& config) {
  const int64_t H = config.num_attention_heads, Hkv = config.num_key_value_heads, D = config.head_dim;
  std::map<std::string, std::vector<int64_t>> out = {{"weight", {kHeadScalars, H}}};
  if (config.liger->learned_features) {
    out["query_map"] = {H, D, D};
    out["key_map"] = {Hkv, D, D};
  }
  if (config.liger->gate == GateSource::kRandom) out["gate"] = {Hkv * D, config.hidden_size};
  return out;
}

at::Tensor head_scalars(const ModelConfig& config, int64_t layer) {
  const LigerConfig& liger = *config.liger;
  at::Tensor out = at::zeros({kHeadScalars, config.num_attention_heads}, at::kDouble);
  out[kWindowWeight].fill_(liger.mix);
  out[kLinearWeight].fill_(liger.shares_normalizer() ? 0.0 : 1.0 - liger.mix);
  out[kQueryScale].fill_(1.0);
  out[kKeyScale].fill_(1.0);
  for (const auto& [scalar, rows] : liger.heads)
    for (size_t h = 0; h < rows[layer].size(); ++h) out[scalar][static_cast<int64_t>(h)].fill_(rows[layer][h]);
  return out;
}

void set_head_scalars(LigerConfig& liger, const ModelConfig& model, int64_t layer, const at::Tensor& scalars) {
  const at::Tensor numbers = scalars.detach().to(at::kCPU, at::kDouble).contiguous();
  for (int64_t i = 0; i < kHeadScalars; ++i) {
    const auto scalar = static_cast<HeadScalar>(i);
    if (scalar == kWindowWeight && liger.shares_normalizer()) continue;
    auto& rows = liger.heads[scalar];
    rows.resize(model.num_hidden_layers);
    const double* row = numbers[i].const_data_ptr<double>();
    rows[layer].assign(row, row + (is_of_kv_head(scalar) ? model.num_key_value_heads : model.num_attention_heads));
  }
}

void make_rings(const MixSettings& settings, int64_t S, int64_t Hkv, int64_t D, const at::TensorOptions& options,
                LayerState& state) {
  const auto make = [&](at::Tensor& ring, bool wanted) {
    if (wanted && !ring.defined()) ring = at::zeros({S, Hkv, settings.window + settings.sinks, D}, options);
  };
  make(state.keys, settings.window > 0);
  make(state.values, settings.window > 0);
  make(state.raw_keys, settings.beyond_window);
}

}  // namespace liger
