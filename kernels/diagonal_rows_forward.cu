#include "diagonal_rows.cuh"

namespace liger::kernels {

const char* diagonal_rows_forward(const DiagonalPass& pass, void* stream) { return run_rows_of_type<true>(pass, stream); }

}  // namespace liger::kernels
