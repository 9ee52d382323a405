#include "diagonal_rows.cuh"

namespace liger::kernels {

const char* diagonal_rows_backward(const DiagonalPass& pass, void* stream) { return run_rows_of_type<false>(pass, stream); }

}  // namespace liger::kernels
