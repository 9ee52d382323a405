#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "liger/nn/state.h"
#include "ops/choose_tokens.h"

namespace liger {

class CausalLM;

/// Some rows of a batch: tokens of one text that come one after the other, on their way into one depth.
struct TextRows {
  DecodingState* text;  ///< of one sequence; its `seen` is not used
  int64_t depth, seen;  ///< the depth, and tokens of the text that it has read
  int64_t begin, count;
};

/// A row of a batch whose next token is wanted.
struct ChoiceRow {
  int64_t row;
  ChoiceSums sums;
};

/// Runs tokens of any number of texts through shared layers on the CPU, in compiled code, whatever loop each is in: a
/// matrix is read once for all rows, pairs of LoRA and norms are those of each row's depth. What comes out of a row has
/// the same bits whatever else is in the batch, and those of StepDecoder.
class StepRows {
 public:
  /// What StepDecoder supports.
  static bool supports(const CausalLM& model);
  /// Keeps the model's tensors; those may not be changed while it is in use.
  explicit StepRows(const CausalLM& model);
  ~StepRows();

  /// -> [n, hidden_size] float32, as all rows here.
  at::Tensor embed(std::span<const int64_t> ids) const;
  /// Runs `layers` layers over x [N, hidden_size] in place, each text's from its depth on. Layers that run together
  /// must have the same weights. Texts lie without gaps in order, and advance.
  void run(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x);
  /// Only lets these layers remember the tokens: as if x came into each of them.
  void remember(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x);
  /// The likeliest tokens after some rows of x, which the last layer left there.
  std::vector<RowChoice> choose(const at::Tensor& x, const std::vector<ChoiceRow>& rows);

 private:
  struct Implementation;
  std::unique_ptr<Implementation> it_;
};

}  // namespace liger
