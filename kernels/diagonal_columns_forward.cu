#include "diagonal_columns.cuh"

namespace liger::kernels {

const char* diagonal_columns_forward(const DiagonalPass& pass, void* stream) {
  return run_columns_of_type<true, true>(pass, stream);
}

}  // namespace liger::kernels
