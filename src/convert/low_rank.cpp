#include "convert/low_rank.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "liger/error.h"

namespace liger {
namespace {

at::Tensor drawn(at::IntArrayRef shape, const at::Tensor& like, uint64_t seed) {
  return at::empty(shape, like.options()).normal_(0, 1, at::make_generator<at::CPUGeneratorImpl>(seed));
}

double energy(const at::Tensor& x) {
  const auto norm = at::linalg_vector_norm(x, 2, c10::nullopt, false, at::kDouble).item<double>();
  return norm * norm;
}

// The `count` eigenvectors of x^T x with the largest eigenvalues, [columns of x, count], in x's type.
at::Tensor directions(const at::Tensor& x, int64_t count) {
  const at::Tensor wide = x.to(at::kDouble);
  const at::Tensor vectors = std::get<1>(at::linalg_eigh(at::matmul(wide.t(), wide)));  // ascending
  return vectors.narrow(1, vectors.size(1) - count, count).flip(1).to(x.scalar_type());
}

at::Tensor orthonormal(const at::Tensor& x) { return std::get<0>(at::linalg_qr(x, "reduced")); }

// An orthonormal basis, [in, rank], of the rows that count most in a matrix far larger than the rank.
at::Tensor subspace(const at::Tensor& matrix, int64_t rank, double all, uint64_t seed) {
  constexpr int64_t kMore = 16, kMostSteps = 12;
  constexpr double kGain = 1e-3;
  const at::Tensor turned = matrix.t();
  at::Tensor basis = orthonormal(at::matmul(turned, drawn({matrix.size(0), rank + kMore}, matrix, seed)));
  at::Tensor best;
  double kept = 0;
  for (int64_t step = 0; step < kMostSteps; ++step) {
    const at::Tensor image = at::matmul(matrix, basis);  // [out, rank + more]
    best = at::matmul(basis, directions(image, rank));
    const double now = energy(at::matmul(matrix, best));
    if (step > 0 && now - kept <= kGain * std::max(all - now, 0.0)) break;
    kept = now;
    basis = orthonormal(at::matmul(turned, orthonormal(image)));
  }
  return best;
}

}  // namespace

LowRank low_rank(const at::Tensor& matrix, int64_t rank, uint64_t seed) {
  const at::NoGradGuard no_grad;
  const int64_t out = matrix.size(0), in = matrix.size(1), least = std::min(in, out);
  LIGER_CHECK(rank >= 1 && rank <= least, "low_rank: expected a rank from 1 to ", least, ", got ", rank);
  LowRank found = no_difference(out, in, rank, matrix.scalar_type(), seed);
  found.all = energy(matrix);
  if (found.all == 0) return found;
  constexpr int64_t kLarge = 1024, kTimes = 8;
  const bool samples = least > kLarge && rank * kTimes <= least;
  at::Tensor a, b;
  if (samples || in <= out) {
    a = (samples ? subspace(matrix, rank, found.all, seed) : directions(matrix, rank)).t();
    b = at::matmul(matrix, a.t());
  } else {  // B A = U U^T R; rows of U^T R are as long as the singular values
    const at::Tensor u = directions(matrix.t(), rank), rows = at::matmul(u.t(), matrix);
    const at::Tensor lengths = at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}, /*keepdim=*/true);
    a = rows / lengths.clamp_min(1e-300);
    b = u * lengths.t();
  }
  const at::Tensor lengths = at::linalg_vector_norm(b, 2, at::IntArrayRef{0}, /*keepdim=*/true);
  const double nothing = (matrix.scalar_type() == at::kDouble ? 1e-14 : 1e-7) * std::sqrt(found.all);
  const at::Tensor is_something = lengths > nothing;
  found.a = at::where(is_something.t(), a, found.a).contiguous();
  found.b = (b * is_something).contiguous();
  found.kept = energy(found.b);
  return found;
}

LowRank no_difference(int64_t out, int64_t in, int64_t rank, at::ScalarType type, uint64_t seed) {
  const at::Tensor b = at::zeros({out, rank}, type);
  return {drawn({rank, in}, b, seed) / std::sqrt(static_cast<double>(in)), b, 0, 0};
}

}  // namespace liger
