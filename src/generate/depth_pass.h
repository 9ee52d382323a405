#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nn/decoder.h"
#include "nn/step_rows.h"

namespace liger {

class CausalLM;

/// Layers over tokens of many texts, whatever depth each is at: in compiled code where StepRows has it, else by
/// products of all rows and each text's own mixer. Rows are [N, hidden_size].
class DepthPass {
 public:
  explicit DepthPass(CausalLM& model);

  at::Tensor embed(std::span<const int64_t> ids) const;
  /// Makes room for the keys and values of so many tokens, neither more nor less.
  void reserve(DecodingState& text, int64_t tokens) const;
  /// As StepRows, but returns what comes out of the last layer; `x` is not needed any more.
  at::Tensor run(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x);
  void remember(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x);
  std::vector<RowChoice> choose(const at::Tensor& x, const std::vector<ChoiceRow>& rows);

 private:
  at::Tensor run_layer(const std::vector<TextRows>& texts, int64_t layer, const at::Tensor& x);
  at::Tensor mix(const TextRows& of, int64_t depth, const Projections& all);
  at::Tensor mix_all(const std::vector<TextRows>& texts, int64_t layer, const Projections& all);

  CausalLM& model_;
  Decoder& decoder_;
  const at::Tensor frequencies_;
  at::Tensor local_frequencies_;  // of sliding layers with a RoPE of their own; else undefined
  std::optional<StepRows> steps_;
};

}  // namespace liger
