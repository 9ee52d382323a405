#include "liger_kernels.h"

namespace liger::kernels {

bool compiled_with_cuda() { return true; }

}  // namespace liger::kernels
