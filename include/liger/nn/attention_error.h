#pragma once

#include <ATen/core/Tensor.h>

#include "liger/core/sequences.h"

namespace liger {

class CausalLM;

/// How far linearized attention is from the softmax attention it replaces, each layer reading what it reads in the
/// teacher (attention transfer: arXiv 2410.10254, section 3.1): with y_n what the teacher's attention writes of token n
/// after o_proj, and y'_n the model's,
///   mean over the linearized layers of sum_n |y'_n - y_n|^2 / sum_n |y_n|^2.
/// Differentiable in the model's parameters; layers do not see each other's errors. `teacher` has softmax attention and
/// as many layers (CausalLM::teacher()). Throws Error if no layer is linearized. -> scalar, float32 or wider.
at::Tensor attention_error(const CausalLM& model, const CausalLM& teacher, const Sequences& tokens);

}  // namespace liger
