#include "ops/rows.h"

#include <algorithm>

#include "core/cpu_jobs.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr int64_t kRows = 64;

}  // namespace

bool takes_rows(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return x.is_cpu() && (type == at::kFloat || type == at::kDouble || type == at::kBFloat16);
}

Element element_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return Element::kFloat;
    case at::kDouble: return Element::kDouble;
    case at::kBFloat16: return Element::kBFloat16;
    default: fail(ErrorCode::kInternal, "CPU kernels: expected float32, float64 or bfloat16, got ", type);
  }
}

GateActivation activation_named(const std::string& name) {
  if (name == "silu") return GateActivation::kSilu;
  if (name == "gelu") return GateActivation::kGelu;
  LIGER_CHECK(name == "gelu_pytorch_tanh", "activation '", name, "' is not supported");
  return GateActivation::kGeluTanh;
}

int64_t row_blocks(int64_t rows) { return (rows + kRows - 1) / kRows; }

void for_row_blocks(int64_t rows, const std::function<void(int64_t, int64_t, int64_t)>& body) {
  run_jobs(
      row_blocks(rows), [](int64_t) { return int64_t{0}; },
      [&](int64_t block, void*) { body(block, block * kRows, std::min(kRows, rows - block * kRows)); });
}

}  // namespace liger
