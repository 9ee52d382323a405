#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "liger/error.h"
#include "recurrence/scan_methods.h"

namespace liger {
namespace {

void check(const ScanInputs& in) {
  const auto& [q, k, v, g, b, state] = in;
  const bool ok = q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && g.sizes() == k.sizes() && q.size(0) == k.size(0) &&
                  v.size(0) == k.size(0) && q.size(1) == k.size(1) && v.size(1) == k.size(1) &&
                  q.size(3) == k.size(3) && v.size(2) == k.size(2) && q.size(2) % k.size(2) == 0 && q.size(1) > 0 &&
                  (!b.defined() || b.sizes() == k.sizes().slice(0, 3)) &&
                  (!state.defined() || state.sizes() == at::IntArrayRef({k.size(0), k.size(2), k.size(3), v.size(3)}));
  const auto shape = [](const at::Tensor& x) { return x.defined() ? cat(x.sizes()) : "none"; };
  LIGER_CHECK(ok,
              "gated_scan: expected q [B, T, H, K], k and g [B, T, Hkv, K], v [B, T, Hkv, V], b [B, T, Hkv], state "
              "[B, Hkv, K, V] with T > 0 and Hkv dividing H, got q ",
              q.sizes(), ", k ", k.sizes(), ", v ", v.sizes(), ", g ", g.sizes(), ", b ", shape(b), ", state ",
              shape(state));
  const auto type = q.scalar_type();
  for (const at::Tensor& x : {k, v, g, b, state})
    LIGER_CHECK(!x.defined() || x.scalar_type() == type, "gated_scan: expected one type throughout, got q ", type,
                ", k ", k.scalar_type(), ", v ", v.scalar_type(), ", g ", g.scalar_type());
  LIGER_CHECK(type == at::kFloat || type == at::kDouble, "gated_scan: expected float32 or float64, got ", type);
}

ScanMethod best_method(const ScanInputs& in) {
  if (in.q.device().is_cpu()) return ScanMethod::kFused;
  return in.b.defined() ? ScanMethod::kReference : ScanMethod::kChunked;
}

}  // namespace

ScanOutputs gated_scan(const ScanInputs& in, ScanMethod method) {
  check(in);
  ScanInputs ready = in;
  if (!ready.state.defined())
    ready.state = at::zeros({in.k.size(0), in.k.size(2), in.k.size(3), in.v.size(3)}, in.k.options());
  if (method == ScanMethod::kAuto) method = best_method(ready);
  switch (method) {
    case ScanMethod::kReference: return scan_reference(ready);
    case ScanMethod::kChunked:
      LIGER_CHECK(!in.b.defined(), "gated_scan: the chunked method does not run the delta rule");
      return scan_chunked(ready);
    default: break;
  }
  LIGER_CHECK(in.q.device().is_cpu(), "gated_scan: the fused scan runs on the CPU, got tensors on ",
              in.q.device().str());
  return scan_fused(ready);
}

ScanOutputs scan_reference(const ScanInputs& in) {
  const int64_t B = in.k.size(0), T = in.k.size(1), Hkv = in.k.size(2), K = in.k.size(3), V = in.v.size(3);
  const at::Tensor q = in.q.view({B, T, Hkv, in.q.size(2) / Hkv, K});
  at::Tensor state = in.state;
  std::vector<at::Tensor> o;
  for (int64_t t = 0; t < T; ++t) {
    const at::Tensor decay = at::exp(in.g.select(1, t)).unsqueeze(-1);
    const at::Tensor k = in.k.select(1, t).unsqueeze(-1), v = in.v.select(1, t).unsqueeze(-2);
    state = decay * state;
    if (in.b.defined()) {
      const at::Tensor b = in.b.select(1, t).unsqueeze(-1).unsqueeze(-1);
      state = state + k * (b * (v - at::matmul(k.transpose(-1, -2), state)));
    } else {
      state = state + k * v;
    }
    o.push_back(at::matmul(q.select(1, t), state));
  }
  return {at::stack(o, 1).view({B, T, in.q.size(2), V}), state};
}

// The same in chunks of 16. Every exponent is a sum of log-decays, which are never positive, so nothing overflows;
// and it is summed up, never taken as a difference of two cumulative sums, so a decay of -1e4 costs its neighbours
// no digits. E[i, j] is the decay from token j to token i of a chunk.
ScanOutputs scan_chunked(const ScanInputs& in) {
  constexpr int64_t C = 16;
  const int64_t B = in.k.size(0), T = in.k.size(1), Hkv = in.k.size(2), K = in.k.size(3), V = in.v.size(3);
  const int64_t G = in.q.size(2) / Hkv, N = (T + C - 1) / C;
  // Padding with k = v = g = 0 leaves the state as it is.
  const auto chunks = [&](const at::Tensor& x) {  // [B, T, Hkv * G, D] -> [B, Hkv, N, C, G, D]
    return at::constant_pad_nd(x, {0, 0, 0, 0, 0, N * C - T})
        .view({B, N, C, Hkv, x.size(2) / Hkv, x.size(3)})
        .permute({0, 3, 1, 2, 4, 5});
  };
  const at::Tensor q = chunks(in.q);
  const at::Tensor k = chunks(in.k).squeeze(4), v = chunks(in.v).squeeze(4), g = chunks(in.g).squeeze(4);

  const at::Tensor index = at::arange(C, at::TensorOptions(at::kLong).device(k.device()));
  const at::Tensor row = index.view({C, 1, 1}), column = index.view({1, C, 1});
  // Chosen by where, not by a product with 0: a log-decay may be -infinity.
  const at::Tensor later = at::where(row > column, g.unsqueeze(4), 0.0);  // [.., i, j, K]: g_i where i > j
  const at::Tensor E = at::where(row >= column, at::exp(later.cumsum(3)), 0.0);

  const at::Tensor A = at::matmul(q, (E * k.unsqueeze(3)).transpose(-1, -2));  // [.., C, G, C]
  const at::Tensor within = at::matmul(A.reshape({B, Hkv, N, C * G, C}), v);

  const at::Tensor from_start = at::exp(g.cumsum(3));
  const at::Tensor after = at::constant_pad_nd(g.narrow(3, 1, C - 1), {0, 0, 0, 1});
  const at::Tensor to_end = at::exp(after.flip({3}).cumsum(3).flip({3}));
  const at::Tensor update = at::matmul((k * to_end).transpose(-1, -2), v);  // [B, Hkv, N, K, V]
  const at::Tensor whole = from_start.select(3, C - 1).unsqueeze(-1);       // [B, Hkv, N, K, 1]

  at::Tensor state = in.state;
  std::vector<at::Tensor> starts;
  for (int64_t n = 0; n < N; ++n) {
    starts.push_back(state);
    state = whole.select(2, n) * state + update.select(2, n);
  }
  const at::Tensor before =
      at::matmul((q * from_start.unsqueeze(4)).reshape({B, Hkv, N, C * G, K}), at::stack(starts, 2));
  const at::Tensor o = (within + before)
                           .view({B, Hkv, N, C, G, V})
                           .permute({0, 2, 3, 1, 4, 5})
                           .reshape({B, N * C, Hkv * G, V})
                           .narrow(1, 0, T);
  return {o, state};
}

}  // namespace liger
