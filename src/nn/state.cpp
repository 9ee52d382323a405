#include "liger/nn/state.h"

#include <ATen/ops/index_select.h>

namespace liger {
namespace {

template <typename Visit>
void for_each_tensor(LayerState& layer, const Visit& visit) {
  for (at::Tensor& tensor : layer.recurrent) visit(tensor);
  for (at::Tensor* tensor : {&layer.keys, &layer.values, &layer.raw_keys})
    if (tensor->defined()) visit(*tensor);
}

}  // namespace

int64_t DecodingState::bytes() const {
  int64_t total = 0;
  for (LayerState layer : layers)
    for_each_tensor(layer, [&](const at::Tensor& tensor) { total += static_cast<int64_t>(tensor.storage().nbytes()); });
  return total;
}

DecodingState DecodingState::select(const at::Tensor& rows) const {
  DecodingState out = *this;
  for (LayerState& layer : out.layers)
    for_each_tensor(layer, [&](at::Tensor& tensor) { tensor = tensor.index_select(0, rows.to(tensor.device())); });
  const at::Tensor on_cpu = rows.to(at::kCPU).contiguous();
  out.seen.clear();
  for (int64_t i = 0; i < on_cpu.numel(); ++i) out.seen.push_back(seen.at(on_cpu.const_data_ptr<int64_t>()[i]));
  return out;
}

}  // namespace liger
