// Inputs of a token mixer for tests, its results with gradients, and how they compare with its definition.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <numeric>
#include <string>
#include <vector>

#include "liger/core/head_scalars.h"
#include "liger/error.h"
#include "nn/reference_mix.h"
#include "tensor_testing.h"

namespace liger::testing {

using Tensors = std::vector<at::Tensor>;

struct MixShape {
  std::vector<int64_t> lengths;
  int64_t H, Hkv, D;
};

// Rounded to `type`, so that the definition in float64 has the very inputs of the compiled code.
inline MixInputs random_inputs(const MixSettings& settings, const MixShape& s, at::ScalarType type) {
  const int64_t S = std::ssize(s.lengths), N = std::accumulate(s.lengths.begin(), s.lengths.end(), int64_t{0});
  const auto randn = [&](std::vector<int64_t> shape) { return at::randn(shape, at::kDouble).to(type); };
  MixInputs in = {randn({N, s.H, s.D}), randn({N, s.Hkv, s.D}), randn({N, s.Hkv, s.D}), {}, s.lengths, {}};
  std::vector<at::Tensor> positions;
  for (const int64_t length : s.lengths) positions.push_back(at::arange(length, at::kLong));
  in.rotation = rotation(rope_frequencies({}, s.D, at::kCPU), at::cat(positions));
  if (settings.recurrence.structure) {
    const auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
    for (const StateShape& shape : state_shapes(*settings.recurrence.structure, s.D))
      in.states.push_back((at::randn({S, s.Hkv, shape.rows, shape.columns}, at::kDouble) * 0.3).to(wide));
  }
  return in;
}

inline MixInputs as_leaves(const MixInputs& in, bool exact) {
  MixInputs out = in;
  const auto leaf = [&](const at::Tensor& x) {
    return (exact ? x.to(at::kDouble) : x).detach().clone().requires_grad_(true);
  };
  for (at::Tensor* x : {&out.q, &out.k, &out.v}) *x = leaf(*x);
  for (at::Tensor& state : out.states) state = leaf(state);
  if (out.scalars.defined()) out.scalars = leaf(out.scalars);
  return out;
}

// Output, last states and the gradients of a fixed random projection of both.
inline Tensors results(const MixInputs& in, const MixOutputs& out) {
  at::manual_seed(99);
  // Weights that bfloat16 holds: the gradient of the output has its type.
  const at::Tensor weights = at::randn(out.o.sizes(), at::kDouble).to(at::kBFloat16).to(at::kDouble);
  at::Tensor loss = (out.o.to(at::kDouble) * weights).sum();
  for (const at::Tensor& state : out.states)
    loss = loss + (state.to(at::kDouble) * at::randn(state.sizes(), at::kDouble)).sum();
  Tensors leaves = {in.q, in.k, in.v}, all = {out.o};
  leaves.insert(leaves.end(), in.states.begin(), in.states.end());
  if (in.scalars.defined()) leaves.push_back(in.scalars);
  all.insert(all.end(), out.states.begin(), out.states.end());
  for (const at::Tensor& gradient : torch::autograd::grad({loss}, leaves, {}, {}, false, /*allow_unused=*/true))
    all.push_back(gradient.defined() ? gradient : at::zeros({1}));
  return all;
}

// `overall`: errors are measured against the largest gradient of all, for inputs where one of them cancels to nothing.
inline void expect_equal_to_definition(const MixSettings& settings, const MixInputs& in, double tolerance,
                                       bool overall = false) {
  const MixInputs exact = as_leaves(in, true), leaves = as_leaves(in, false);
  const Tensors expected = results(exact, reference_mix(settings, exact));
  const Tensors got = results(leaves, fused_mix(settings, leaves));
  const size_t states = in.states.size();
  ASSERT_EQ(got.size(), expected.size());
  double largest = 1e-25;  // what float32 holds
  for (size_t i = states + 1; i < got.size(); ++i) largest = std::max(largest, expected[i].abs().max().item<double>());
  for (size_t i = 0; i < got.size(); ++i) {
    const std::string what = i == 0               ? "o"
                             : i <= states        ? "state"
                             : i < states + 4     ? cat("d", "qkv"[i - states - 1])
                             : i < 2 * states + 4 ? "dstate"
                                                  : "dscalars";
    // The states are float32 whatever the inputs are; the rest is rounded to their type once.
    const bool wide = got[i].scalar_type() != at::kBFloat16;
    if (overall && i > states) {
      EXPECT_LE((got[i] - expected[i]).abs().max().item<double>(), tolerance * largest) << what;
    } else {
      expect_close(got[i], expected[i], wide ? tolerance : 6e-3, what.c_str());
    }
  }
}

/// Tokens begin .. begin + length - 1 of one sequence.
inline MixInputs part(const MixInputs& in, int64_t begin, int64_t length) {
  const auto cut = [&](const at::Tensor& x) { return x.narrow(0, begin, length); };
  return {cut(in.q), cut(in.k), cut(in.v), {cut(in.rotation.cos), cut(in.rotation.sin)}, {length}, {}, {}, in.scalars};
}

/// One sequence of 90 tokens cut anywhere with its state carried, down to single tokens, is the sequence; by the
/// definition too.
inline void expect_splitting_changes_nothing(const MixSettings& settings, const MixInputs& in, double tolerance) {
  const at::Tensor whole = fused_mix(settings, in).o;
  expect_close(whole, reference_mix(settings, as_leaves(in, true)).o, tolerance, "whole");
  const std::vector<std::vector<int64_t>> all_cuts = {{1}, {7, 8}, {16, 1, 1, 1, 40}, {64}, {89}};
  for (const std::vector<int64_t>& cuts : all_cuts) {
    LayerState state, defined;
    Tensors parts, defined_parts;
    int64_t seen = 0;
    const auto advance = [&](int64_t length) {
      parts.push_back(fused_mix(settings, part(in, seen, length), {seen}, state));
      defined_parts.push_back(reference_mix(settings, part(in, seen, length), {seen}, defined));
      seen += length;
    };
    for (const int64_t cut : cuts) advance(cut);
    advance(90 - seen);
    expect_close(at::cat(parts), whole, tolerance, "parts");
    expect_close(at::cat(defined_parts), whole, tolerance, "defined parts");
    expect_close(state.keys, defined.keys, 1e-5, "keys");
    if (settings.beyond_window) expect_close(state.raw_keys, defined.raw_keys, 1e-5, "raw keys");
  }
}

}  // namespace liger::testing
