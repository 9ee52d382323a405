#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <vector>

#include "liger/core/dtype.h"
#include "liger/ops/ops.h"

namespace liger {

at::Tensor rope_frequencies(const RopeConfig& rope, int64_t rotated_channels, at::Device device) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  const at::Tensor exponents = at::arange(0, rotated_channels, 2, options) / static_cast<double>(rotated_channels);
  const at::Tensor frequencies = 1.0 / at::pow(rope.theta, exponents);
  if (rope.type == RopeConfig::Type::kDefault) return frequencies;
  if (rope.type == RopeConfig::Type::kLinear) return frequencies / rope.factor;

  // Llama 3.1: by how often a frequency turns within the original context.
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const at::Tensor wavelengths = 2 * M_PI / frequencies;
  const at::Tensor scaled = frequencies / rope.factor;
  const at::Tensor blend =
      (context / wavelengths - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor smooth = (1 - blend) * scaled + blend * frequencies;
  const at::Tensor low_only = at::where(wavelengths > context / rope.low_freq_factor, scaled, smooth);
  return at::where(wavelengths < context / rope.high_freq_factor, frequencies, low_only);
}

Rotation rotation(const at::Tensor& frequencies, const at::Tensor& positions) {
  const at::Tensor angles = at::outer(positions.to(at::kFloat), frequencies);
  return {at::cos(angles), at::sin(angles)};
}

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation) {
  const at::Tensor wide = x.to(wide_type(x));
  const at::Tensor cos = rotation.cos.unsqueeze(1), sin = rotation.sin.unsqueeze(1);
  const int64_t half = rotation.cos.size(-1), rest = x.size(-1) - 2 * half;
  const at::Tensor first = wide.narrow(-1, 0, half), second = wide.narrow(-1, half, half);
  std::vector<at::Tensor> parts = {first * cos - second * sin, second * cos + first * sin};
  if (rest > 0) parts.push_back(wide.narrow(-1, 2 * half, rest));
  return at::cat(parts, -1).to(x.scalar_type());
}

}  // namespace liger
