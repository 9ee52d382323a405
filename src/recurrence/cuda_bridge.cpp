// The only code that knows liger_kernels.

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "liger/error.h"
#include "liger_kernels.h"
#include "recurrence/scan_methods.h"

namespace liger {

bool cuda_kernel_runs(const ScanInputs& in) {
  return in.q.is_cuda() && !in.b.defined() && in.q.scalar_type() == at::kFloat && kernels::compiled_with_cuda() &&
         kernels::diagonal_scan_fwd_supports(in.q.size(3));
}

ScanOutputs scan_cuda(const ScanInputs& in) {
  const at::Tensor q = in.q.contiguous(), k = in.k.contiguous(), v = in.v.contiguous(), g = in.g.contiguous(),
                   state = in.state.contiguous();
  ScanOutputs out = {at::empty({q.size(0), q.size(1), q.size(2), v.size(3)}, q.options()), at::empty_like(state)};
  const kernels::DiagonalScanForward args = {q.size(0),
                                             q.size(1),
                                             q.size(2),
                                             k.size(2),
                                             k.size(3),
                                             v.size(3),
                                             q.const_data_ptr<float>(),
                                             k.const_data_ptr<float>(),
                                             v.const_data_ptr<float>(),
                                             g.const_data_ptr<float>(),
                                             state.const_data_ptr<float>(),
                                             out.state.mutable_data_ptr<float>(),
                                             out.o.mutable_data_ptr<float>()};
  void* stream = at::accelerator::getCurrentStream(q.device().index()).native_handle();
  const char* problem = kernels::diagonal_scan_fwd(args, stream);
  if (problem) fail(ErrorCode::kInternal, "diagonal_scan on ", q.device().str(), ": ", problem);
  return out;
}

}  // namespace liger
