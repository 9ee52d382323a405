#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/cpu_jobs.h"
#include "core/optional_tensor.h"
#include "cpu/kernels.h"
#include "liger/error.h"
#include "recurrence/scan_methods.h"

namespace liger {
namespace {

// Contiguous tensors of one scan. b is undefined without the delta rule.
struct Scan {
  at::Tensor q, k, v, g, b;
  int64_t B = k.size(0), T = k.size(1), Hkv = k.size(2), K = k.size(3), V = v.size(3), group = q.size(2) / Hkv;

  explicit Scan(const ScanInputs& in)
      : q(in.q.contiguous()),
        k(in.k.contiguous()),
        v(in.v.contiguous()),
        g(in.g.contiguous()),
        b(in.b.defined() ? in.b.contiguous() : at::Tensor()) {}

  int64_t heads() const { return B * Hkv; }
  // Where `head` of all sequences' begins in a tensor with `width` values a token and key/value head.
  char* data(const at::Tensor& x, int64_t head, int64_t width) const {
    const int64_t first = ((head / Hkv) * T * Hkv + head % Hkv) * width;
    return static_cast<char*>(x.data_ptr()) + first * static_cast<int64_t>(x.element_size());
  }
  char* whole(const at::Tensor& x, int64_t head, int64_t size) const {
    return static_cast<char*>(x.data_ptr()) + head * size * static_cast<int64_t>(x.element_size());
  }
  ScanHead head(int64_t head) const {
    return {.element = q.scalar_type() == at::kDouble ? Element::kDouble : Element::kFloat,
            .tokens = T,
            .group = group,
            .K = K,
            .V = V,
            .delta_rule = b.defined(),
            .q = data(q, head, group * K),
            .k = data(k, head, K),
            .v = data(v, head, V),
            .g = data(g, head, K),
            .b = b.defined() ? data(b, head, 1) : nullptr,
            .q_stride = Hkv * group * K,
            .k_stride = Hkv * K,
            .v_stride = Hkv * V,
            .b_stride = Hkv,
            .o_stride = Hkv * group * V};
  }

  // Runs kernel over all heads with pass(head) for each.
  template <typename Pass, typename MakePass>
  void run(int64_t (*scratch)(const ScanHead&, int64_t), void (*kernel)(const ScanHead*, const Pass*, int64_t, void*),
           const MakePass& pass) const {
    run_heads(
        std::vector<int64_t>(B, T), Hkv, scratch, kernel, [&](int64_t s, int64_t h) { return head(s * Hkv + h); },
        [&](int64_t s, int64_t h) { return pass(s * Hkv + h); });
  }
};

// `state` is updated in place; `checkpoints` stays undefined unless wanted.
at::Tensor run_forward(const Scan& scan, at::Tensor& state, at::Tensor* checkpoints) {
  const CpuKernels& kernels = cpu_kernels();
  at::Tensor o = at::empty({scan.B, scan.T, scan.Hkv * scan.group, scan.V}, scan.q.options());
  const int64_t size = checkpoints ? kernels.scan_checkpoint_scalars(scan.head(0)) : 0;
  if (checkpoints) *checkpoints = at::empty({scan.heads(), size}, scan.q.options());
  scan.run(kernels.scan_forward_scratch, kernels.scan_forward, [&](int64_t head) -> ScanForward {
    return {.o = scan.data(o, head, scan.group * scan.V),
            .state = scan.whole(state, head, scan.K * scan.V),
            .checkpoints = checkpoints ? scan.whole(*checkpoints, head, size) : nullptr};
  });
  return o;
}

torch::autograd::variable_list run_backward(const Scan& scan, const at::Tensor& checkpoints, const at::Tensor& grad_o,
                                            at::Tensor dstate) {
  const CpuKernels& kernels = cpu_kernels();
  const at::Tensor dq = at::empty_like(scan.q), dk = at::empty_like(scan.k), dv = at::empty_like(scan.v),
                   dg = at::empty_like(scan.g), db = scan.b.defined() ? at::empty_like(scan.b) : at::Tensor();
  scan.run(kernels.scan_backward_scratch, kernels.scan_backward, [&](int64_t head) -> ScanBackward {
    return {.checkpoints = scan.whole(checkpoints, head, checkpoints.size(1)),
            .grad_o = scan.data(grad_o, head, scan.group * scan.V),
            .dq = scan.data(dq, head, scan.group * scan.K),
            .dk = scan.data(dk, head, scan.K),
            .dv = scan.data(dv, head, scan.V),
            .dg = scan.data(dg, head, scan.K),
            .db = db.defined() ? scan.data(db, head, 1) : nullptr,
            .dstate = scan.whole(dstate, head, scan.K * scan.V)};
  });
  return {dq, dk, dv, dg, db, dstate};
}

class FusedScan : public torch::autograd::Function<FusedScan> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& q,
                                                const at::Tensor& k, const at::Tensor& v, const at::Tensor& g,
                                                const std::optional<at::Tensor>& b, const at::Tensor& state) {
    const Scan scan({q, k, v, g, b.value_or(at::Tensor()), {}});
    at::Tensor last = state.clone(at::MemoryFormat::Contiguous), checkpoints;
    const at::Tensor o = run_forward(scan, last, &checkpoints);
    context->save_for_backward({scan.q, scan.k, scan.v, scan.g, scan.b, checkpoints});
    return {o, last};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "gated_scan: the fused method is differentiable once; take kReference");
    const auto saved = context->get_saved_variables();
    const Scan scan({saved[0], saved[1], saved[2], saved[3], saved[4], {}});
    const at::Tensor grad_o = grads[0].defined()
                                  ? grads[0].contiguous()
                                  : at::zeros({scan.B, scan.T, scan.Hkv * scan.group, scan.V}, scan.q.options());
    const at::Tensor dstate = grads[1].defined() ? grads[1].clone(at::MemoryFormat::Contiguous)
                                                 : at::zeros({scan.B, scan.Hkv, scan.K, scan.V}, scan.q.options());
    return run_backward(scan, saved[5], grad_o, dstate);
  }
};

bool wants_gradient(const ScanInputs& in) {
  const auto wants = [](const at::Tensor& x) { return x.defined() && x.requires_grad(); };
  return at::GradMode::is_enabled() &&
         (wants(in.q) || wants(in.k) || wants(in.v) || wants(in.g) || wants(in.b) || wants(in.state));
}

}  // namespace

ScanOutputs scan_fused(const ScanInputs& in) {
  if (wants_gradient(in)) {
    auto out = FusedScan::apply(in.q, in.k, in.v, in.g, if_defined(in.b), in.state);
    return {out[0], out[1]};
  }
  at::Tensor state = in.state.clone(at::MemoryFormat::Contiguous);
  const at::Tensor o = run_forward(Scan(in), state, nullptr);
  return {o, state};
}

}  // namespace liger
