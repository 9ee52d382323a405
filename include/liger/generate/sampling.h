#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace liger {

/// How the next token is drawn. With p = softmax(logits / temperature) in float32 and tokens in falling order of p
/// (equal ones by id):
///   top_k  keeps the first k;
///   top_p  of these keeps the shortest beginning whose share of their mass reaches top_p, at least one;
///   min_p  of these keeps what has p >= min_p * (highest p).
/// A token left is drawn with probability p / (sum of p left).
struct SamplingOptions {
  double temperature = 0.0;  ///< 0 = always the most probable token, the first of equals
  int64_t top_k = 0;         ///< 0 = all
  double top_p = 1.0;
  double min_p = 0.0;
  uint64_t seed = 0;
};

struct Candidate {
  int64_t id;
  float weight;  ///< proportional to p, the most probable token has 1
};
/// The tokens that may be drawn, in order of their ids. `options.temperature` > 0.
std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options);

/// Draws tokens; the same seed and the same logits give the same tokens.
class Sampler {
 public:
  /// Throws Error(kUsage) on an option out of range.
  explicit Sampler(const SamplingOptions& options);
  /// `logits` [V], any floating dtype. Throws Error(kBadInput) if one is NaN or the highest is not finite.
  int64_t sample(const at::Tensor& logits);

 private:
  SamplingOptions options_;
  std::mt19937_64 random_;
};

}  // namespace liger
