#include <cmath>

#include "liger/core/structure.h"

namespace liger {

// GLA, HGRN2 and GSA are those of the Liger code (arXiv 2503.01496, table 1 and its released implementation); the
// other rows drive the recurrence of the paper named from the same key projection, with the same softmax features
// where the original has no say. "kbar" is the mean of a key over its channels.
const std::vector<Structure>& structures() {
  using enum FeatureMap;
  using enum Decay;
  static const std::vector<Structure> all = {
      {.name = "gla",
       .title = "gated linear attention: sigmoid(k)^(1/divisor) per channel",
       .decay = kLogSigmoid,
       .per_channel = true,
       .uses_divisor = true},
      {.name = "hgrn2",
       .title = "HGRN2: sigmoid(k) per channel, 1 - sigmoid(k) as the key",
       .key = kComplement,
       .decay = kLogSigmoid,
       .per_channel = true},
      {.name = "gsa",
       .title = "gated slot attention: two states of slots with a softmax between",
       .query = kIdentity,
       .key = kIdentity,
       .decay = kLogSigmoid,
       .per_channel = true,
       .uses_divisor = true,
       .slots = true},
      {.name = "gated-retention",  // arXiv 2405.05254
       .title = "gated retention: sigmoid(kbar)^(1/divisor) per head",
       .decay = kLogSigmoid,
       .uses_divisor = true},
      {.name = "mamba2",  // arXiv 2405.21060, without its input scale
       .title = "Mamba-2's scalar decay: exp(-softplus(kbar)) per head",
       .decay = kSoftplus},
      {.name = "mlstm",  // arXiv 2405.04517, input gate 1
       .title = "mLSTM: forget gate sigmoid(kbar), output divided by its normaliser",
       .decay = kLogSigmoid,
       .normalizes = true},
      {.name = "retnet", .title = "RetNet: the constant 1 - 2^(-5-h) per head", .decay = kRetNet},  // arXiv 2307.08621
      {.name = "lightning",  // arXiv 2401.04658
       .title = "Lightning attention: a constant per head and layer",
       .decay = kLightning},
      {.name = "rwkv6",  // arXiv 2404.05892, bonus 1
       .title = "RWKV-6: exp(-exp(k)) per channel, read before the decay",
       .decay = kExp,
       .per_channel = true,
       .reads_before_decay = true},
      {.name = "deltanet",  // arXiv 2406.06484
       .title = "DeltaNet: the delta rule, strength sigmoid(kbar), unit keys",
       .query = kUnit,
       .key = kUnit,
       .delta_rule = true},
      {.name = "gated-deltanet",  // arXiv 2412.06464
       .title = "Gated DeltaNet: a decay per head, then the delta rule",
       .query = kUnit,
       .key = kUnit,
       .decay = kLogSigmoid,
       .uses_divisor = true,
       .delta_rule = true},
      {.name = "kda",  // arXiv 2510.26692
       .title = "Kimi delta attention: a decay per channel, then the delta rule",
       .query = kUnit,
       .key = kUnit,
       .decay = kLogSigmoid,
       .per_channel = true,
       .uses_divisor = true,
       .delta_rule = true},
      {.name = "linear", .title = "linear attention without a gate"},
  };
  return all;
}

const Structure* find_structure(const std::string& name) {
  for (const Structure& structure : structures())
    if (name == structure.name) return &structure;
  return nullptr;
}

std::vector<StateShape> state_shapes(const Structure& structure, int64_t head_dim) {
  if (structure.slots) return {{head_dim, head_dim}, {head_dim, head_dim}};
  return {{head_dim, head_dim + (structure.normalizes ? 1 : 0)}};
}

double constant_log_decay(const Structure& structure, int64_t kv_head, int64_t kv_heads, int64_t layer,
                          int64_t layers) {
  const double h = static_cast<double>(kv_head);
  if (structure.decay == Decay::kRetNet) return std::log1p(-std::exp2(-5.0 - h));
  if (structure.decay == Decay::kLightning)
    return -8.0 / static_cast<double>(kv_heads) * (1.0 - static_cast<double>(layer) / static_cast<double>(layers)) * h;
  return 0.0;
}

}  // namespace liger
