#include <ATen/TensorOperators.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/softmax.h>

#include "liger/core/dtype.h"
#include "recurrence/structures.h"

namespace liger {
namespace {

// arXiv 2503.01496, table 1, as the released code has it: both feature maps are a softmax over the head dimension,
// and the gate is the pretrained key itself, pooled to its own size, that is unchanged.
ScanInputs gla_gate(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const LigerConfig& config) {
  const auto type = wide_type(q);
  const at::Tensor key = k.to(type);
  return {at::softmax(q.to(type), -1), at::softmax(key, -1), v.to(type),
          at::log_sigmoid(key) / config.gate_divisor, {}};
}

}  // namespace

const Recurrence kGla = {.name = "gla", .gate = gla_gate};

}  // namespace liger
