#ifdef LIGER_NCCL
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "distributed/process_group.h"
#include "liger/error.h"

namespace liger {

#ifdef LIGER_NCCL

ProcessGroup make_nccl(const Store& store, int rank, int size, std::chrono::seconds timeout) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}

#else

ProcessGroup make_nccl(const Store&, int, int, std::chrono::seconds) {
  fail(ErrorCode::kUsage,
       "more than one process on GPUs needs NCCL: build liger with the LibTorch of a CUDA wheel, and "
       "nccl.h (the nvidia-nccl wheel beside it, or Debian's libnccl-dev)");
}

#endif

}  // namespace liger
