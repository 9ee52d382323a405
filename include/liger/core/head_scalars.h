#pragma once

#include <cstdint>

namespace liger {

/// The numbers of a linearized layer that each head has for itself, as rows of one tensor [kHeadScalars, H]. Those of a
/// key/value head lie in the first Hkv columns of their row, of which the rest is of no meaning.
enum HeadScalar : int64_t {
  kWindowWeight,  ///< of the window's output in the mix; of no meaning under Normalizer::kShared
  kLinearWeight,  ///< of the recurrence's output; under Normalizer::kShared w, the logarithm of what its sums count
  kQueryScale,    ///< queries are multiplied by it before they become features
  kKeyScale,      ///< keys too; of a key/value head
  kLogGate,       ///< log-decays are multiplied by exp of it; of a key/value head
  kHeadScalars    ///< how many there are
};

/// As in config.json: "window_weight", "linear_weight" or, with a shared normalizer, "log_linear_weight", ...
const char* head_scalar_name(HeadScalar scalar, bool shared_normalizer);
/// Whether it belongs to a key/value head.
inline bool is_of_kv_head(HeadScalar scalar) { return scalar == kKeyScale || scalar == kLogGate; }

}  // namespace liger
