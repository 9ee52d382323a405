#include "nn/cuda_calls.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/tensor.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>

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

// [Hkv]: the log-decays of a structure's layer that has constant ones. Kept on each device for good, as a copy at every
// call would make the host wait and could not become part of a CUDA graph; never freed, as the driver may be gone
// before the last of the program is.
const at::Tensor& constants_of(const LayerRecurrence& layer, int64_t kv_heads, at::Device device) {
  using Key = std::tuple<std::string, int64_t, int64_t, int64_t, int, int>;
  static std::mutex mutex;
  static auto& kept = *new std::map<Key, at::Tensor>;
  const std::lock_guard lock(mutex);
  at::Tensor& constants = kept[{layer.structure->name, layer.layer, layer.layers, kv_heads,
                                static_cast<int>(device.type()), device.index()}];
  if (constants.defined()) return constants;
  std::vector<float> of_heads;
  for (int64_t h = 0; h < kv_heads; ++h)
    of_heads.push_back(
        static_cast<float>(constant_log_decay(*layer.structure, h, kv_heads, layer.layer, layer.layers)));
  return constants = at::tensor(of_heads, at::kFloat).to(device);
}

}  // namespace

bool kernel_reads(at::ScalarType type) { return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf; }

kernels::Type kernel_type(at::ScalarType type) {
  LIGER_CHECK(kernel_reads(type), "CUDA kernels: expected float32, bfloat16 or float16, got ", type);
  return type == at::kFloat  ? kernels::Type::kFloat
         : type == at::kHalf ? kernels::Type::kHalf
                             : kernels::Type::kBFloat16;
}

void* kernel_stream(const at::Tensor& x) {
  return x.is_cpu() ? nullptr : at::accelerator::getCurrentStream(x.device().index()).native_handle();
}

void check_kernel(const char* what, const at::Tensor& x) {
  if (what) fail(ErrorCode::kInternal, "on ", x.device().str(), ": ", what);
}

kernels::Features kernel_features(const LayerRecurrence& layer, int64_t kv_heads, at::Device device) {
  const Structure& s = *layer.structure;
  const bool constant = !s.gated() && s.decay != Decay::kNone;
  return {.raw = true,
          .query = map_of(s.query),
          .key = s.slots ? kernels::Map::kForgotten : map_of(s.key),
          .gate = gate_of(s.decay),
          .per_channel = s.per_channel,
          .divisor = static_cast<float>(layer.divisor()),
          .constants = constant ? constants_of(layer, kv_heads, device).const_data_ptr<float>() : nullptr};
}

}  // namespace liger
