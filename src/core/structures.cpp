#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "liger/core/structure.h"

namespace liger {

namespace {

constexpr const char* kPerChannel = "a decay per channel of the key";
constexpr const char* kPerHead = "a decay per head";
constexpr const char* kFixed = "a fixed decay, or none";
constexpr const char* kDelta = "the delta rule";
constexpr const char* kBaseline = "no recurrence";

}  // namespace

// GLA, HGRN2 and GSA are those of the Liger code (arXiv 2503.01496, table 1 and its released implementation); the other
// rows drive the recurrence of the paper named from the same key projection, with the same softmax features where the
// original has no say.
const std::vector<Structure>& structures() {
  using enum FeatureMap;
  using enum Decay;
  static const std::vector<Structure> all = {
      {.name = "gla",
       .architecture = "GLA",
       .kind = kPerChannel,
       .summary = "gated linear attention; what the paper and its released checkpoints use",
       .forgets = "its decay is sigmoid(k)^(1/gate_divisor)",
       .published = true,
       .decay = kLogSigmoid,
       .per_channel = true,
       .uses_divisor = true},
      {.name = "hgrn2",
       .architecture = "HGRN2",
       .kind = kPerChannel,
       .summary = "what is forgotten makes room for the new: the key is 1 - decay",
       .forgets = "its decay is sigmoid(k)",
       .published = true,
       .key = kComplement,
       .decay = kLogSigmoid,
       .per_channel = true},
      {.name = "gsa",
       .architecture = "GSA",
       .kind = kPerChannel,
       .summary = "gated slot attention: softmax over head_dim slots of keys and values",
       .forgets = "its decay is sigmoid(k)^(1/gate_divisor)",
       .published = true,
       .query = kIdentity,
       .key = kIdentity,
       .decay = kLogSigmoid,
       .per_channel = true,
       .uses_divisor = true,
       .slots = true},
      {.name = "rwkv6",
       .architecture = "RWKV6",
       .kind = kPerChannel,  // arXiv 2404.05892, bonus 1
       .summary = "the state is read before the new token enters, which has a term of its own",
       .forgets = "its decay is exp(-exp(k))",
       .decay = kExp,
       .per_channel = true,
       .reads_before_decay = true},
      {.name = "gated-retention",
       .architecture = "GatedRetention",
       .kind = kPerHead,  // arXiv 2405.05254
       .summary = "gla with one gate a head, from the mean of the key",
       .forgets = "its decay is sigmoid(mean of k)^(1/gate_divisor)",
       .decay = kLogSigmoid,
       .uses_divisor = true},
      {.name = "mamba2",
       .architecture = "Mamba2",
       .kind = kPerHead,  // arXiv 2405.21060, without its input scale
       .summary = "the gate of Mamba-2, from the mean of the key",
       .forgets = "its decay is exp(-softplus(mean of k))",
       .decay = kSoftplus},
      {.name = "mlstm",
       .architecture = "MLSTM",
       .kind = kPerHead,  // arXiv 2405.04517, input gate 1
       .summary = "matrix LSTM: a forget gate and a normalizer",
       .forgets = "its decay is sigmoid(mean of k)",
       .decay = kLogSigmoid,
       .normalizer = Normalizer::kAtLeastOne},
      {.name = "retnet",
       .architecture = "RetNet",
       .kind = kFixed,  // arXiv 2307.08621
       .summary = "retention: each head has a constant decay",
       .forgets = "its decay is a constant of the head",
       .decay = kRetNet},
      {.name = "lightning",
       .architecture = "Lightning",
       .kind = kFixed,  // arXiv 2401.04658
       .summary = "each head of each layer has a constant decay",
       .forgets = "its decay is a constant of the head and the layer",
       .decay = kLightning},
      {.name = "linear",
       .architecture = "Linear",
       .kind = kFixed,
       .summary = "plain linear attention: nothing is forgotten",
       .forgets = "nothing decays"},
      {.name = "deltanet",
       .architecture = "DeltaNet",
       .kind = kDelta,  // arXiv 2406.06484
       .summary = "a token replaces a share of what its key held, by the mean of the key",
       .forgets = "nothing decays",
       .query = kUnit,
       .key = kUnit,
       .delta_rule = true},
      {.name = "gated-deltanet",
       .architecture = "GatedDeltaNet",
       .kind = kDelta,  // arXiv 2412.06464
       .summary = "deltanet after a decay per head",
       .forgets = "its decay is sigmoid(mean of k)^(1/gate_divisor)",
       .query = kUnit,
       .key = kUnit,
       .decay = kLogSigmoid,
       .uses_divisor = true,
       .delta_rule = true},
      {.name = "kda",
       .architecture = "KDA",
       .kind = kDelta,  // arXiv 2510.26692
       .summary = "Kimi delta attention: deltanet after a decay per channel of the key",
       .forgets = "its decay is sigmoid(k)^(1/gate_divisor)",
       .query = kUnit,
       .key = kUnit,
       .decay = kLogSigmoid,
       .per_channel = true,
       .uses_divisor = true,
       .delta_rule = true},
      {.name = "swa",
       .architecture = "SWA",
       .kind = kBaseline,
       .summary = "the sliding window alone, the baseline of all others",
       .forgets = "nothing is remembered beyond the window",
       .window_only = true},
  };
  return all;
}

const Structure* find_structure(const std::string& name) {
  for (const Structure& structure : structures())
    if (name == structure.name) return &structure;
  return nullptr;
}

std::string refuses_choices(const Structure& s, std::optional<FeatureMap> features,
                            std::optional<Normalizer> normalizer) {
  const std::string name = s.name;
  if (features && (s.window_only || s.query != FeatureMap::kSoftmax || s.key != FeatureMap::kSoftmax))
    return name + " has no features to choose: " + s.summary;
  if (!normalizer || *normalizer == s.normalizer) return {};
  if (s.window_only || s.slots || s.delta_rule || s.reads_before_decay)
    return name + " has no sum of keys to divide by: " + s.summary;
  if (s.normalizes()) return name + " has a normalizer of its own";
  const FeatureMap query = features.value_or(s.query), key = features.value_or(s.key);
  if (query == FeatureMap::kIdentity || key == FeatureMap::kIdentity)
    return "a sum of keys can be divided by only where features are not negative";
  return {};
}

const Structure* with_choices(const Structure& structure, std::optional<FeatureMap> features,
                              std::optional<Normalizer> normalizer) {
  static std::mutex mutex;
  static std::map<std::tuple<std::string, FeatureMap, FeatureMap, Normalizer>, Structure> known;
  Structure chosen = structure;
  if (features) chosen.query = chosen.key = *features;
  if (normalizer) chosen.normalizer = *normalizer;
  const auto key = [](const Structure& s) { return std::tuple(std::string(s.name), s.query, s.key, s.normalizer); };
  if (key(chosen) == key(structure)) return &structure;
  const std::lock_guard lock(mutex);
  return &known.try_emplace(key(chosen), chosen).first->second;
}

std::vector<StateShape> state_shapes(const Structure& structure, int64_t head_dim) {
  if (structure.window_only) return {};
  if (structure.slots) return {{head_dim, head_dim}, {head_dim, head_dim}};
  return {{structure.feature_dim(head_dim), head_dim + (structure.normalizes() ? 1 : 0)}};
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
