// The activations of gated MLPs, and their derivatives.
#pragma once

#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace liger {
namespace {

/// (1 + erf(x / sqrt 2)) / 2.
template <typename T>
Vec<T> normal_share(Vec<T> x) {
  for (int64_t i = 0; i < kWidth<T>; ++i) x[i] = T(0.5) + T(0.5) * std::erf(x[i] * T(0.70710678118654752));
  return x;
}
/// What tanh approximates it by: (1 + tanh(u)) / 2 is the sigmoid of 2 u.
template <typename V>
V twice_u(V x) {
  using T = std::decay_t<decltype(x[0])>;
  return x * T(1.5957691216057308) * (x * x * T(0.044715) + T(1));
}

template <typename V>
V activate(GateActivation activation, V x) {
  using T = std::decay_t<decltype(x[0])>;
  if (activation == GateActivation::kSilu) return x * sigmoid<T>(x);
  if (activation == GateActivation::kGeluTanh) return x * sigmoid<T>(twice_u(x));
  return x * normal_share<T>(x);
}

template <typename V>
V activation_slope(GateActivation activation, V x) {
  using T = std::decay_t<decltype(x[0])>;
  if (activation == GateActivation::kGelu)  // the density of the normal distribution is its slope
    return normal_share<T>(x) + x * T(0.39894228040143268) * exp(x * x * T(-0.5));
  const V s = sigmoid<T>(activation == GateActivation::kSilu ? x : twice_u(x));
  const V inner =
      activation == GateActivation::kSilu ? V{} + T(1) : T(1.5957691216057308) * (x * x * (3 * T(0.044715)) + T(1));
  return s + x * s * (T(1) - s) * inner;
}

}  // namespace
}  // namespace liger
