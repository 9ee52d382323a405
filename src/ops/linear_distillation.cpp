#include "liger/ops/linear_distillation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/ops/linear.h"
#include "ops/head_loss.h"

namespace liger {
namespace {

at::Tensor log_softmax(const at::Tensor& logits) { return at::_log_softmax(logits, 1, /*half_to_float=*/false); }

// The divergence of p from q, given as logarithms, summed; log_p becomes its gradient by the logits if that is wanted.
double diverge(Divergence divergence, at::Tensor& log_p, const at::Tensor& log_q, bool gradient) {
  const auto sum = [](const at::Tensor& x) { return x.sum(at::kDouble).item<double>(); };
  const at::Tensor q = log_q.exp();
  double value = 0;
  if (divergence == Divergence::kForward) {
    value = sum(q * (log_q - log_p));
    log_p = gradient ? log_p.exp_().sub_(q) : at::Tensor();
    return value;
  }
  at::Tensor p = log_p.exp(), by_p;  // by how much it grows with p
  switch (divergence) {
    case Divergence::kForward: break;
    case Divergence::kReverse:
      by_p = log_p - log_q;
      value = sum(p * by_p);
      break;
    case Divergence::kJensenShannon: {
      const at::Tensor log_m = at::logaddexp(log_p, log_q).sub_(std::log(2.0));
      by_p = (log_p - log_m).mul_(0.5);
      value = sum(p * by_p) + 0.5 * sum(q * (log_q - log_m));
      break;
    }
    case Divergence::kTotalVariation:
      by_p = (p - q).sign_().mul_(0.5);
      value = 0.5 * sum((p - q).abs_());
      break;
  }
  // p is a softmax: what all of p have in common changes nothing.
  log_p = gradient ? p.mul_(by_p.sub_((p * by_p).sum(1, /*keepdim=*/true))) : at::Tensor();
  return value;
}

// The losses of rows with student logits s and teacher logits t, summed; s becomes its gradient if it is wanted.
at::Tensor losses(at::Tensor& s, const at::Tensor& t, const at::Tensor& targets, const Distillation& how,
                  bool gradient) {
  const double T = how.temperature;
  at::Tensor loss = at::zeros({}, s.options().dtype(at::kDouble)), grad;
  if (how.weight > 0) {
    grad = log_softmax(T == 1 ? s : s / T);
    loss += how.weight * T * T * diverge(how.divergence, grad, log_softmax(T == 1 ? t : t / T), gradient);
    if (gradient) grad.mul_(how.weight * T);
  }
  if (how.weight < 1) {
    at::Tensor p = log_softmax(s);
    const at::Tensor target = targets.unsqueeze(1);
    loss -= (1 - how.weight) * p.gather(1, target).sum(at::kDouble);
    if (gradient) {
      p.exp_().scatter_add_(1, target, at::scalar_tensor(-1.0, p.options()).expand_as(target)).mul_(1 - how.weight);
      grad = grad.defined() ? grad.add_(p) : p;
    }
  }
  s = grad;
  return loss;
}

}  // namespace

at::Tensor linear_distillation(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& teacher_hidden,
                               const at::Tensor& teacher_head, const at::Tensor& targets, const Distillation& how,
                               double softcap, double teacher_softcap) {
  const int64_t N = hidden.size(0), V = head.size(0);
  LIGER_CHECK(hidden.dim() == 2 && head.dim() == 2 && hidden.size(1) == head.size(1) && targets.dim() == 1 &&
                  targets.size(0) == N && teacher_hidden.dim() == 2 && teacher_hidden.size(0) == N &&
                  teacher_head.dim() == 2 && teacher_head.size(0) == V &&
                  teacher_head.size(1) == teacher_hidden.size(1),
              "linear_distillation: expected hidden [N, D], head [V, D], a teacher's [N, D'] and [V, D'] and targets ",
              "[N], got ", hidden.sizes(), ", ", head.sizes(), ", ", teacher_hidden.sizes(), ", ", teacher_head.sizes(),
              ", ", targets.sizes());
  return head_loss(hidden, head, [&](bool hidden_needs_grad, bool head_needs_grad) {
    const at::ScalarType type = wide_type(hidden);
    HeadLoss out = loss_by_rows(hidden, head, learned_rows(targets, V), hidden_needs_grad, head_needs_grad, softcap,
                                [&](const at::Tensor& index, at::Tensor& logits, bool gradient) {
                                  const at::Tensor t =
                                      capped(product(teacher_hidden.index_select(0, index), teacher_head,
                                                     /*transposed=*/true, type),
                                             teacher_softcap);
                                  return losses(logits, t, targets.index_select(0, index), how, gradient);
                                });
    out.loss = out.loss.to(type);
    return out;
  });
}

int64_t linear_distillation_bytes(int64_t rows, int64_t width, int64_t vocab_size, at::ScalarType type,
                                  Divergence divergence) {
  const int64_t element = std::max<int64_t>(4, static_cast<int64_t>(c10::elementSize(type)));
  // Both logits, both logarithms and one distribution; or both, and two intermediate results.
  const int64_t matrices = divergence == Divergence::kForward ? 5 : 8;
  return std::min(rows, block_rows(vocab_size)) * (matrices * vocab_size + 2 * width) * element;
}

}  // namespace liger
