// The only code that knows liger_kernels.

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>

#include "liger/error.h"
#include "diagonal_scan.h"
#include "recurrence/scan_methods.h"

namespace liger {

namespace {

std::optional<kernels::Type> type_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return kernels::Type::kFloat;
    case at::kBFloat16: return kernels::Type::kBFloat16;
    case at::kHalf: return kernels::Type::kHalf;
    default: return std::nullopt;
  }
}

kernels::DiagonalScan sizes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  kernels::DiagonalScan out = {};
  out.type = type_of(q).value_or(kernels::Type::kFloat);
  out.sequences = q.size(0);
  out.N = q.size(0) * q.size(1);
  out.T = q.size(1);
  out.H = q.size(2);
  out.Hkv = k.size(2);
  out.K = k.size(3);
  out.V = v.size(3);
  return out;
}

// Contiguous tensors of the sizes in `args`, whose g or features are set.
ScanOutputs launch(kernels::DiagonalScan scan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   const at::Tensor& state) {
  ScanOutputs out = {at::empty({q.size(0), q.size(1), q.size(2), v.size(3)}, q.options()), at::empty_like(state)};
  scan.q = q.const_data_ptr();
  scan.k = k.const_data_ptr();
  scan.v = v.const_data_ptr();
  kernels::DiagonalScanForward args = {};
  args.scan = scan;
  args.state_in = state.const_data_ptr<float>();
  args.state_out = out.state.mutable_data_ptr<float>();
  args.o = out.o.mutable_data_ptr();
  void* stream = at::accelerator::getCurrentStream(q.device().index()).native_handle();
  const char* problem = kernels::diagonal_scan_fwd(args, stream);
  if (problem) fail(ErrorCode::kInternal, "diagonal scan on ", q.device().str(), ": ", problem);
  return out;
}

kernels::Map map_of(FeatureMap map) {
  switch (map) {
    case FeatureMap::kSoftmax: return kernels::Map::kSoftmax;
    case FeatureMap::kUnit: return kernels::Map::kUnit;
    case FeatureMap::kComplement: return kernels::Map::kComplement;
    default: return kernels::Map::kIdentity;
  }
}
kernels::Gate gate_of(Decay decay) {
  switch (decay) {
    case Decay::kLogSigmoid: return kernels::Gate::kLogSigmoid;
    case Decay::kSoftplus: return kernels::Gate::kSoftplus;
    case Decay::kExp: return kernels::Gate::kExp;
    default: return kernels::Gate::kConstant;
  }
}

}  // namespace

bool cuda_kernel_runs(const ScanInputs& in) {
  return in.q.is_cuda() && !in.b.defined() && in.q.scalar_type() == at::kFloat &&
         kernels::diagonal_scan_fwd_refuses({sizes(in.q, in.k, in.v), {}, {}, {}, {}, {}}) == nullptr;
}

ScanOutputs scan_cuda(const ScanInputs& in) {
  const at::Tensor g = in.g.contiguous();
  kernels::DiagonalScan args = sizes(in.q, in.k, in.v);
  args.g = g.const_data_ptr<float>();
  return launch(args, in.q.contiguous(), in.k.contiguous(), in.v.contiguous(), in.state.contiguous());
}

std::optional<RecurrenceOutputs> recurrence_cuda(const LayerRecurrence& layer, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const at::Tensor& state) {
  const Structure& s = *layer.structure;
  if (!q.is_cuda() || !type_of(q) || state.scalar_type() != at::kFloat) return {};
  if (s.delta_rule || s.reads_before_decay || s.normalizes || s.slots) return {};
  kernels::DiagonalScan args = sizes(q, k, v);
  if (kernels::diagonal_scan_fwd_refuses({args, {}, {}, {}, {}, {}})) return {};
  at::Tensor constants;
  if (!s.gated()) {
    std::vector<float> of_heads;
    for (int64_t h = 0; h < args.Hkv; ++h)
      of_heads.push_back(static_cast<float>(constant_log_decay(s, h, args.Hkv, layer.layer, layer.layers)));
    constants = at::tensor(of_heads, at::kFloat).to(q.device());
  }
  args.features = {.raw = true,
                   .query = map_of(s.query),
                   .key = map_of(s.key),
                   .gate = gate_of(s.decay),
                   .per_channel = s.per_channel,
                   .divisor = static_cast<float>(layer.divisor()),
                   .constants = constants.defined() ? constants.const_data_ptr<float>() : nullptr};
  const ScanOutputs out = launch(args, q.contiguous(), k.contiguous(), v.contiguous(), state.contiguous());
  return RecurrenceOutputs{out.o, {out.state}};
}

}  // namespace liger
