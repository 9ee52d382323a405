#include "liger_kernels.h"

namespace liger::kernels {

bool compiled_with_cuda() { return false; }

}  // namespace liger::kernels
