#pragma once

namespace liger::kernels {

/// nullptr if the kernels run on this device of the process; else the reason: they need compute capability 8.0 and as
/// much shared memory to a block as an A100 has. The text is the calling thread's until its next call.
const char* device_refuses(int device);

}  // namespace liger::kernels
