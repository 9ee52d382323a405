#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace liger {

/// B A, the best approximation of a matrix by one of rank r (Eckart and Young).
struct LowRank {
  at::Tensor a;     ///< [r, in], orthonormal rows
  at::Tensor b;     ///< [out, r], columns as long as the singular values
  double kept = 0;  ///< the squared norm of B A,
  double all = 0;   ///< and of the matrix
};

/// Of `matrix` [out, in], float32 or float64, on the CPU; `rank` at most min(in, out). Exact by the eigenvectors of the
/// smaller product of the matrix with itself, in float64; of a large matrix and a small rank by subspace iteration
/// (arXiv 0909.4061, algorithm 4.4), until another step keeps less than a thousandth more of what was left.
/// Directions in which there is nothing get a drawn row of A and a zero column of B: training can begin there.
LowRank low_rank(const at::Tensor& matrix, int64_t rank, uint64_t seed = 0);

/// A drawn, N(0, 1 / in), and B zero.
LowRank no_difference(int64_t out, int64_t in, int64_t rank, at::ScalarType type, uint64_t seed);

}  // namespace liger
