#include "diagonal_columns.cuh"

namespace liger::kernels {

const char* diagonal_columns_backward(const DiagonalPass& pass, void* stream) {
  return run_columns_of_type<false, true>(pass, stream);
}

}  // namespace liger::kernels
