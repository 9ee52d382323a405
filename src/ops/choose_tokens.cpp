#include "ops/choose_tokens.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/topk.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu_jobs.h"
#include "liger/error.h"

namespace liger {
namespace {

// On a device, where the rows are not to be copied from: a few numbers of each are.
std::vector<RowChoice> choose_there(const at::Tensor& logits, ChoiceSums sums) {
  const auto n = static_cast<size_t>(logits.size(0));
  const at::Tensor wide = logits.to(at::kDouble), first = wide.argmax(1).to(at::kCPU);
  const int64_t known = std::min<int64_t>(2, wide.size(1));
  const at::Tensor top = std::get<0>(at::topk(wide, known, 1)), values = top.to(at::kCPU).contiguous();
  at::Tensor totals, weighted;
  if (sums != ChoiceSums::kNone) {
    const at::Tensor y = wide - top.narrow(1, 0, 1), e = y.exp();
    totals = e.sum(1).to(at::kCPU);
    weighted = (e * y.clamp_min(-1000)).sum(1).to(at::kCPU);
  }
  std::vector<RowChoice> out(n);
  for (size_t i = 0; i < n; ++i) {
    const double* two = values.const_data_ptr<double>() + static_cast<int64_t>(i) * known;
    RowChoice& choice = out[i];
    choice.largest = two[0];
    choice.second = known > 1 ? two[1] : -std::numeric_limits<double>::infinity();
    if (std::isfinite(two[0])) choice.first = first.const_data_ptr<int64_t>()[i];
    if (sums == ChoiceSums::kNone) continue;
    choice.total = totals.const_data_ptr<double>()[i];
    choice.entropy = std::log(choice.total) - weighted.const_data_ptr<double>()[i] / choice.total;
  }
  return out;
}

}  // namespace

void check_finite(const RowChoice& choice) {
  LIGER_CHECK(choice.first >= 0,
              "the model's logits are not finite; its weights or its dtype do not hold: try --dtype f32");
}

std::vector<RowChoice> choose_tokens(const at::Tensor& logits, ChoiceSums sums) {
  LIGER_CHECK(logits.dim() == 2 && logits.size(1) > 0, "choose_tokens: expected logits [n, V], got ", logits.sizes());
  const int64_t n = logits.size(0), V = logits.size(1);
  std::vector<RowChoice> out;
  if (logits.is_cpu()) {
    const bool is_double = logits.scalar_type() == at::kDouble;
    const at::Tensor rows = logits.to(is_double ? at::kDouble : at::kFloat).contiguous();
    out.resize(static_cast<size_t>(n));
    const auto body = [&](int64_t i, void*) {
      const void* row = static_cast<const char*>(rows.const_data_ptr()) + i * V * rows.element_size();
      out[static_cast<size_t>(i)] =
          cpu_kernels().rows.choose(is_double ? Element::kDouble : Element::kFloat, row, V, sums);
    };
    constexpr int64_t kWork = 1 << 16;  // numbers that are worth waking threads for
    if (n * V < kWork) {
      for (int64_t i = 0; i < n; ++i) body(i, nullptr);
    } else {
      run_jobs(n, [](int64_t) { return int64_t{0}; }, body);
    }
  } else {
    out = choose_there(logits, sums);
  }
  for (const RowChoice& choice : out) check_finite(choice);
  return out;
}

}  // namespace liger
