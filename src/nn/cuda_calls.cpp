#include "nn/cuda_calls.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/tensor.h>

#include "liger/error.h"

namespace liger {
namespace {

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

bool kernel_reads(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf; }

kernels::Type kernel_type(at::ScalarType type) {
  LIGER_CHECK(kernel_reads(type), "CUDA kernels: expected float32, bfloat16 or float16, got ", type);
  return type == at::kFloat ? kernels::Type::kFloat : type == at::kHalf ? kernels::Type::kHalf : kernels::Type::kBFloat16;
}

void* kernel_stream(const at::Tensor& x) {
  return x.is_cpu() ? nullptr : at::accelerator::getCurrentStream(x.device().index()).native_handle();
}

void check_kernel(const char* what, const at::Tensor& x) {
  if (what) fail(ErrorCode::kInternal, "on ", x.device().str(), ": ", what);
}

KernelFeatures::KernelFeatures(const LayerRecurrence& layer, int64_t kv_heads, at::Device device) {
  const Structure& s = *layer.structure;
  if (!s.gated() && s.decay != Decay::kNone) {
    std::vector<float> of_heads;
    for (int64_t h = 0; h < kv_heads; ++h)
      of_heads.push_back(static_cast<float>(constant_log_decay(s, h, kv_heads, layer.layer, layer.layers)));
    constants = at::tensor(of_heads, at::kFloat).to(device);
  }
  features = {.raw = true,
              .query = map_of(s.query),
              .key = s.slots ? kernels::Map::kForgotten : map_of(s.key),
              .gate = gate_of(s.decay),
              .per_channel = s.per_channel,
              .divisor = static_cast<float>(layer.divisor()),
              .constants = constants.defined() ? constants.const_data_ptr<float>() : nullptr};
}

}  // namespace liger
