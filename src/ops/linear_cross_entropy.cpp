#include "liger/ops/linear_cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/ops/linear.h"
#include "ops/head_loss.h"
#include "ops/rows.h"

namespace liger {
namespace {

// Rows and tokens of the pieces of logits that are held otherwise: they stay in the cache.
constexpr int64_t kPieceRows = 1024, kPieceTokens = 1024;

// The sum of the rows' losses, float64; with `gradient`, logits become softmax - one-hot, their gradient.
at::Tensor cross_entropy(at::Tensor& logits, const at::Tensor& targets, bool gradient) {
  if (!takes_rows(logits)) {
    const at::Tensor target = targets.unsqueeze(1);
    logits = at::_log_softmax(logits, 1, /*half_to_float=*/false);
    const at::Tensor loss = -logits.gather(1, target).sum(at::kDouble);
    if (gradient) logits.exp_().scatter_add_(1, target, at::scalar_tensor(-1.0, logits.options()).expand_as(target));
    return loss;
  }
  logits = logits.contiguous();
  const at::Tensor losses = at::empty({logits.size(0)}, at::kDouble);
  const int64_t V = logits.size(1);
  const int64_t* target = targets.const_data_ptr<int64_t>();
  for_row_blocks(logits.size(0), [&](int64_t, int64_t first, int64_t count) {
    for (int64_t row = first; row < first + count; ++row) {
      losses.mutable_data_ptr<double>()[row] = cpu_kernels().rows.cross_entropy(
          element_of(logits.scalar_type()), static_cast<char*>(logits.data_ptr()) + row * V * logits.element_size(), V,
          target[row], gradient);
    }
  });
  return losses.sum();
}

// By blocks of rows with all their logits. The gradient of the weight needs them: softmax before its sum is known has
// no place in a sum over rows.
HeadLoss by_rows(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, const at::Tensor& rows,
                 bool hidden_needs_grad, bool weight_needs_grad, double softcap) {
  return loss_by_rows(hidden, weight, rows, hidden_needs_grad, weight_needs_grad, softcap,
                      [&](const at::Tensor& index, at::Tensor& logits, bool gradient) {
                        return cross_entropy(logits, targets.index_select(0, index), gradient);
                      });
}

// One block of rows x against a frozen weight, whose pieces are met once, as attention meets its keys (the running
// maximum of arXiv 1805.02867): the gradient sum_v softmax(z)_v w_v - w_target is attention over the rows of the
// weight.
class StreamedBlock {
 public:
  StreamedBlock(const at::Tensor& x, const at::Tensor& targets, at::ScalarType type, bool gradient)
      : x_(x.to(type_of_products(x))),
        targets_(targets),
        grown_(at::empty({x.size(0), 1}, at::kDouble)),
        softmax_(x.size(0)),
        at_target_(x.size(0)) {
    if (gradient) sum_ = at::zeros(x.sizes(), x.options().dtype(type));
    logits_ = at::empty({x.size(0), kPieceTokens}, x.options().dtype(type));
  }

  // Rows `first` and on of the weight.
  void add(const at::Tensor& piece, int64_t first) {
    const at::Tensor w = piece.to(x_.scalar_type());
    at::Tensor z = logits_.narrow(1, 0, w.size(0));
    if (x_.scalar_type() == z.scalar_type())
      at::mm_out(z, x_, w.t());
    else
      z.copy_(at::mm(x_, w.t()));
    for_row_blocks(z.size(0), [&](int64_t, int64_t begin, int64_t count) {
      for (int64_t row = begin; row < begin + count; ++row) take(z, row, first);
    });
    if (!sum_.defined()) return;
    sum_.mul_(grown_.to(sum_.scalar_type()));
    if (x_.scalar_type() == z.scalar_type())
      sum_.addmm_(z, w);
    else
      sum_ += at::mm(z.to(x_.scalar_type()), w);
  }

  at::Tensor loss() const {
    double loss = 0;
    for (size_t row = 0; row < softmax_.size(); ++row)
      loss += std::log(softmax_[row].total) - (at_target_[row] - softmax_[row].largest);
    return at::scalar_tensor(loss, at::kDouble);
  }
  at::Tensor gradient(const at::Tensor& weight) const {
    std::vector<double> scales;
    for (const SoftmaxRow& row : softmax_) scales.push_back(1 / row.total);
    return sum_ * at::tensor(scales, sum_.options()).unsqueeze(1) -
           weight.index_select(0, targets_).to(sum_.scalar_type());
  }

 private:
  void take(const at::Tensor& z, int64_t row, int64_t first) {
    const int64_t n = z.size(1), target = targets_.const_data_ptr<int64_t>()[row] - first;
    void* logits = static_cast<char*>(z.data_ptr()) + row * z.stride(0) * z.element_size();
    if (0 <= target && target < n) {
      at_target_[row] = z.scalar_type() == at::kDouble ? static_cast<const double*>(logits)[target]
                                                       : static_cast<double>(static_cast<const float*>(logits)[target]);
    }
    grown_.mutable_data_ptr<double>()[row] =
        cpu_kernels().rows.softmax_piece(element_of(z.scalar_type()), logits, n, softmax_[row], sum_.defined());
  }
  at::Tensor x_, targets_, grown_, logits_, sum_;
  std::vector<SoftmaxRow> softmax_;
  std::vector<double> at_target_;
};

HeadLoss streamed(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, const at::Tensor& rows,
                  bool hidden_needs_grad) {
  HeadLoss result;
  result.loss = at::zeros({}, at::kDouble);
  if (hidden_needs_grad) result.hidden_grad = at::zeros_like(hidden);
  for_blocks(rows, kPieceRows, [&](const at::Tensor& index) {
    StreamedBlock block(hidden.index_select(0, index), targets.index_select(0, index), wide_type(hidden),
                        hidden_needs_grad);
    for (int64_t v = 0; v < weight.size(0); v += kPieceTokens)
      block.add(weight.narrow(0, v, std::min(kPieceTokens, weight.size(0) - v)), v);
    result.loss += block.loss();
    if (hidden_needs_grad) result.hidden_grad.index_copy_(0, index, block.gradient(weight).to(hidden.scalar_type()));
  });
  return result;
}

HeadLoss compute(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, double softcap,
                 bool hidden_needs_grad, bool weight_needs_grad) {
  const at::Tensor rows = learned_rows(targets, weight.size(0));
  HeadLoss result = hidden.is_cpu() && !weight_needs_grad && softcap == 0
                        ? streamed(hidden, weight, targets, rows, hidden_needs_grad)
                        : by_rows(hidden, weight, targets, rows, hidden_needs_grad, weight_needs_grad, softcap);
  result.loss = result.loss.to(wide_type(hidden));
  return result;
}

}  // namespace

int64_t linear_cross_entropy_bytes(int64_t rows, int64_t width, int64_t vocab_size, at::ScalarType type,
                                   bool weight_needs_grad) {
  const auto given = static_cast<int64_t>(c10::elementSize(type)), element = std::max<int64_t>(4, given);
  if (weight_needs_grad) return std::min(rows, block_rows(vocab_size)) * (vocab_size + 2 * width) * element;
  const int64_t block = std::min(rows, kPieceRows), piece = std::min(vocab_size, kPieceTokens);
  return (block * (kPieceTokens + 4 * width) + (given < element ? piece * width : 0)) * element;
}

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
                                double softcap) {
  LIGER_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) && targets.dim() == 1 &&
                  targets.size(0) == hidden.size(0) && hidden.scalar_type() == weight.scalar_type(),
              "linear_cross_entropy: expected hidden [N, D], weight [V, D] of one dtype and targets [N], got ",
              hidden.sizes(), " ", hidden.scalar_type(), ", ", weight.sizes(), " ", weight.scalar_type(), ", ",
              targets.sizes());
  return head_loss(hidden, weight, [&](bool hidden_needs_grad, bool weight_needs_grad) {
    return compute(hidden, weight, targets, softcap, hidden_needs_grad, weight_needs_grad);
  });
}

}  // namespace liger
