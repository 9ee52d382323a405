// The only code that knows liger_kernels.

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "liger/error.h"
#include "liger_kernels.h"
#include "recurrence/scan_methods.h"

namespace liger {

namespace {

// float32 as gated_scan has it; sizes and pointers only.
kernels::DiagonalScanForward arguments(const ScanInputs& in) {
  kernels::DiagonalScanForward out = {};
  out.type = kernels::Type::kFloat;
  out.sequences = in.q.size(0);
  out.T = in.q.size(1);
  out.H = in.q.size(2);
  out.Hkv = in.k.size(2);
  out.K = in.k.size(3);
  out.V = in.v.size(3);
  return out;
}

}  // namespace

bool cuda_kernel_runs(const ScanInputs& in) {
  return in.q.is_cuda() && !in.b.defined() && in.q.scalar_type() == at::kFloat &&
         kernels::diagonal_scan_fwd_refuses(arguments(in)) == nullptr;
}

ScanOutputs scan_cuda(const ScanInputs& in) {
  const at::Tensor q = in.q.contiguous(), k = in.k.contiguous(), v = in.v.contiguous(), g = in.g.contiguous(),
                   state = in.state.contiguous();
  ScanOutputs out = {at::empty({q.size(0), q.size(1), q.size(2), v.size(3)}, q.options()), at::empty_like(state)};
  kernels::DiagonalScanForward args = arguments(in);
  args.q = q.const_data_ptr();
  args.k = k.const_data_ptr();
  args.v = v.const_data_ptr();
  args.g = g.const_data_ptr<float>();
  args.state_in = state.const_data_ptr<float>();
  args.state_out = out.state.mutable_data_ptr<float>();
  args.o = out.o.mutable_data_ptr();
  void* stream = at::accelerator::getCurrentStream(q.device().index()).native_handle();
  const char* problem = kernels::diagonal_scan_fwd(args, stream);
  if (problem) fail(ErrorCode::kInternal, "diagonal scan on ", q.device().str(), ": ", problem);
  return out;
}

}  // namespace liger
