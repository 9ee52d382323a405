#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace liger {

/// How a projected query or key x in R^D becomes a feature of a recurrence.
enum class FeatureMap {
  kIdentity,    ///< x
  kSoftmax,     ///< softmax over the D channels
  kUnit,        ///< x / sqrt(|x|^2 + 1e-6)
  kComplement,  ///< 1 - sigmoid(x), computed as sigmoid(-x)
  // Two features a channel, as in Hedgehog (arXiv 2402.04347): all of x, then all of -x. Never negative.
  kSoftmaxPair,  ///< softmax over the 2 D numbers (x, -x)
  kExpPair,      ///< (exp(x), exp(-x)), x held within +-kLargestExponent
};
/// Beyond it exp() of kExpPair stays what it is there: sums of products of two stay finite in float32.
inline constexpr double kLargestExponent = 20;

/// What a recurrence's output is divided by. Past kNone the sum of keys n_t = a_t n_{t-1} + k'_t is kept as one more
/// column of S, and d = q'_t^T n_t is the weight of all that the state holds for this query.
enum class Normalizer {
  kNone,        ///< nothing
  kAtLeastOne,  ///< max(|d|, 1), as mLSTM does
  kOwn,         ///< d; features that are not negative only; o = 0 while the state holds nothing
  kShared,      ///< d and the window's own sum together: one softmax over both, see MixSettings
};

/// The log-decay g of a token, from its pretrained key: x is the key itself, one decay for each of its channels, or
/// its mean over the channels, one decay for the head.
enum class Decay {
  kNone,        ///< g = 0
  kRetNet,      ///< g = log(1 - 2^(-5-h)), h the key/value head
  kLightning,   ///< g = -(8 / Hkv) (1 - layer / layers) h
  kLogSigmoid,  ///< g = logsigmoid(x), the decay is sigmoid(x)
  kSoftplus,    ///< g = -softplus(x), the decay is sigmoid(-x)
  kExp,         ///< g = -exp(x), from x = 20 on (where exp(g) is 0 in any precision) that of 20
};

/// A gated structure: how the projections of a pretrained layer drive a linear recurrence without new parameters.
/// For one key/value head, whose state the query heads of its group share, with q', k' the features and a = exp(g):
///   S_t = diag(a_t) S_{t-1} + k'_t v_t^T,   o_t = q'_t^T S_t
/// and what the flags below change in it.
struct Structure {
  const char* name;          ///< as in --arch and in config.json's "liger.recurrence": "gated-deltanet"
  const char* architecture;  ///< its part of config.json's "architectures": "GatedDeltaNet"
  const char* kind;          ///< what it shares with others: "a decay per head"
  const char* summary;       ///< one line
  const char* forgets;       ///< a clause about its decay: "its decay is sigmoid(k)"
  bool published = false;    ///< the published Liger code opens it
  bool window_only = false;  ///< no recurrence: the layer is its window of softmax attention, the rest has no meaning
  FeatureMap query = FeatureMap::kSoftmax, key = FeatureMap::kSoftmax;
  Decay decay = Decay::kNone;
  bool per_channel = false;   ///< x of the decay is the key, not its mean
  bool uses_divisor = false;  ///< g is divided by LigerConfig::gate_divisor
  /// The delta rule: with b_t = sigmoid(mean of k_t) and S' = diag(a_t) S_{t-1},
  ///   S_t = S' + b_t k'_t (v_t - S'^T k'_t)^T.
  bool delta_rule = false;
  /// o_t = q'_t^T (S_{t-1} + k'_t v_t^T): a query reads the state before this token's decay.
  bool reads_before_decay = false;
  Normalizer normalizer = Normalizer::kNone;
  /// Gated slot attention: s_t = 1 - a_t writes key and value into D slots of two states,
  ///   K_t = K_{t-1} diag(a_t) + k'_t s_t^T,  V_t = diag(a_t) V_{t-1} + s_t v_t^T,  o_t = V_t^T softmax(K_t^T q'_t).
  bool slots = false;

  /// The decay depends on the key; otherwise it is a constant of the head.
  bool gated() const { return decay >= Decay::kLogSigmoid; }
  bool normalizes() const { return normalizer != Normalizer::kNone; }
  /// Features of a query or key.
  int64_t feature_dim(int64_t head_dim) const {
    return key == FeatureMap::kSoftmaxPair || key == FeatureMap::kExpPair ? 2 * head_dim : head_dim;
  }
};

/// All of them, those of one kind neighbours. A row here, and a file of fixtures that an independent program wrote, is
/// all that one needs.
const std::vector<Structure>& structures();
/// nullptr if there is none of this name.
const Structure* find_structure(const std::string& name);

/// The structure with other features or another normalizer, for as long as the program runs: the same pointer for the
/// same choice. What is absent stays.
const Structure* with_choices(const Structure& structure, std::optional<FeatureMap> features,
                              std::optional<Normalizer> normalizer);
/// Why a structure cannot be given them; "" if it can.
std::string refuses_choices(const Structure& structure, std::optional<FeatureMap> features,
                            std::optional<Normalizer> normalizer);

/// A recurrent state that a key/value head keeps.
struct StateShape {
  int64_t rows, columns;
};
std::vector<StateShape> state_shapes(const Structure& structure, int64_t head_dim);

/// g of a structure whose decay is a constant of the head (kNone, kRetNet, kLightning).
double constant_log_decay(const Structure& structure, int64_t kv_head, int64_t kv_heads, int64_t layer, int64_t layers);

}  // namespace liger
