#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cpu/kernels.h"

namespace liger {

/// What is likeliest in each row of logits [n, V], of any floating dtype on any device. Throws Error(kBadInput) if one
/// is NaN, or the largest of a row is not finite.
std::vector<RowChoice> choose_tokens(const at::Tensor& logits, ChoiceSums sums = ChoiceSums::kNone);
/// Throws that error for a row without a choice.
void check_finite(const RowChoice& choice);

}  // namespace liger
