#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace liger {

/// Of a student's distribution p from a teacher's q (arXiv 2410.20672, table I.1).
enum class Divergence {
  kForward,         ///< KL(q || p) = sum q (log q - log p)
  kReverse,         ///< KL(p || q)
  kJensenShannon,   ///< (KL(q || m) + KL(p || m)) / 2 with m = (p + q) / 2
  kTotalVariation,  ///< sum |p - q| / 2
};

/// Learning from a teacher's distribution over the next token (arXiv 1503.02531).
struct Distillation {
  double weight = 1.0;       ///< share of the divergence in the loss; the rest is cross-entropy with the targets
  double temperature = 1.0;  ///< both distributions are softmax(logits / temperature)
  Divergence divergence = Divergence::kForward;
};

/// sum over rows n with targets[n] != kIgnoredTarget of
///   weight * T^2 * divergence(softmax(s / T) from softmax(t / T)) + (1 - weight) * -log softmax(s)[targets[n]],   in
///   nats,
/// with s = hidden[n] head^T and t = teacher_hidden[n] teacher_head^T; T^2 keeps the gradients' size (section 2).
///   hidden [N, D], head [V, D], teacher_hidden [N, D'], teacher_head [V, D'], each pair of one dtype, targets [N]
///   int64
///   -> scalar, float32 (float64 for float64 input).
/// Logits exist in blocks of rows, 64 MB of each at a time. Differentiable once, in hidden and head: the first backward
/// pass takes the gradients with it. Throws Error if the shapes disagree. Logits of either may have a softcap, as
/// linear_cross_entropy()'s.
at::Tensor linear_distillation(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& teacher_hidden,
                               const at::Tensor& teacher_head, const at::Tensor& targets, const Distillation& how,
                               double softcap = 0, double teacher_softcap = 0);

/// Bytes that it holds at most for that on the CPU, beside what it is given and the gradients; `width` is the wider of
/// D and D'.
int64_t linear_distillation_bytes(int64_t rows, int64_t width, int64_t vocab_size, at::ScalarType type,
                                  Divergence divergence);

}  // namespace liger
