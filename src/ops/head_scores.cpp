#include "ops/head_scores.h"

#include <algorithm>
#include <cmath>

#include "liger/core/dtype.h"
#include "liger/ops/linear.h"
#include "liger/ops/ops.h"
#include "ops/rows.h"

namespace liger {
namespace {

constexpr int64_t kPieceRows = 1024, kPieceTokens = 1024;

// What has been seen of a row.
struct Row {
  SoftmaxRow sum;
  int64_t first = -1;  // the largest so far is here first
};

// z [n, tokens first, first + 1, ...].
template <typename T>
void take_row(const T* z, int64_t n, int64_t first, Element element, Row& row) {
  const double before = row.sum.largest;
  cpu_kernels().rows.softmax_piece(element, const_cast<T*>(z), n, row.sum, /*keep=*/false);
  if (row.sum.largest > before) row.first = first + (std::find(z, z + n, static_cast<T>(row.sum.largest)) - z);
}

template <typename T>
void take_piece(const at::Tensor& z, int64_t first, std::span<const HeadTarget> targets, int64_t first_row,
                std::vector<Row>& rows, std::vector<double>& at_targets) {
  const int64_t n = z.size(1);
  const T* data = z.const_data_ptr<T>();
  for_row_blocks(z.size(0), [&](int64_t, int64_t begin, int64_t count) {
    for (int64_t row = begin; row < begin + count; ++row)
      take_row(data + row * n, n, first, element_of(z.scalar_type()), rows[static_cast<size_t>(row)]);
  });
  for (size_t i = 0; i < targets.size(); ++i) {
    const int64_t token = targets[i].token - first;
    if (0 <= token && token < n) at_targets[i] = static_cast<double>(data[(targets[i].row - first_row) * n + token]);
  }
}

// Rows first_row, first_row + 1, ... and their targets.
void score_block(const at::Tensor& hidden, const at::Tensor& weight, std::span<const HeadTarget> targets,
                 int64_t first_row, double cap, std::vector<HeadScore>& out) {
  std::vector<Row> rows(static_cast<size_t>(hidden.size(0)));
  std::vector<double> at_targets(targets.size());
  for (int64_t v = 0; v < weight.size(0); v += kPieceTokens) {
    const at::Tensor piece = weight.narrow(0, v, std::min(kPieceTokens, weight.size(0) - v));
    const at::Tensor z = softcap(linear(hidden, piece), cap).to(wide_type(hidden)).contiguous();
    z.scalar_type() == at::kDouble ? take_piece<double>(z, v, targets, first_row, rows, at_targets)
                                   : take_piece<float>(z, v, targets, first_row, rows, at_targets);
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    const Row& row = rows[static_cast<size_t>(targets[i].row - first_row)];
    out.push_back({at_targets[i] - row.sum.largest - std::log(row.sum.total), row.first == targets[i].token});
  }
}

}  // namespace

std::vector<HeadScore> head_scores(const at::Tensor& hidden, const at::Tensor& weight,
                                   std::span<const HeadTarget> targets, double softcap) {
  std::vector<HeadScore> out;
  for (int64_t first = 0; first < hidden.size(0); first += kPieceRows) {
    const int64_t count = std::min(kPieceRows, hidden.size(0) - first);
    size_t end = out.size();
    while (end < targets.size() && targets[end].row < first + count) ++end;
    score_block(hidden.narrow(0, first, count), weight, targets.subspan(out.size(), end - out.size()), first, softcap,
                out);
  }
  return out;
}

}  // namespace liger
