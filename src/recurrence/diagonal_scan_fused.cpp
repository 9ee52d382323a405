#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "recurrence/scan_cpu.h"
#include "recurrence/structures.h"

namespace liger {
namespace {

const ScanKernels& kernels() {
#ifdef __x86_64__
  static const ScanKernels& best =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? kScanAvx2 : kScanBaseline;
  return best;
#else
  return kScanBaseline;
#endif
}

void forward(const ScanHead<float>& in, const ScanHeadForward<float>& out) { kernels().forward_f32(in, out); }
void forward(const ScanHead<double>& in, const ScanHeadForward<double>& out) { kernels().forward_f64(in, out); }
void backward(const ScanHead<float>& in, const ScanHeadBackward<float>& out) { kernels().backward_f32(in, out); }
void backward(const ScanHead<double>& in, const ScanHeadBackward<double>& out) { kernels().backward_f64(in, out); }

// Contiguous tensors of one scan; `at(b, h)` is one sequence and key/value head of it.
template <typename T>
struct Scan {
  at::Tensor q, k, v, a;
  int64_t B = k.size(0), tokens = k.size(1), Hkv = k.size(2), K = k.size(3), V = v.size(3);
  int64_t group = q.size(2) / Hkv;
  int64_t chunks() const { return (tokens + kScanChunk - 1) / kScanChunk; }

  // Offsets of sequence b, head h in tensors of `heads` heads of size `size`.
  int64_t offset(int64_t b, int64_t h, int64_t heads, int64_t size) const {
    return (b * tokens * Hkv * heads + h * heads) * size;
  }
  ScanHead<T> at(int64_t b, int64_t h) const {
    return {tokens,
            group,
            K,
            V,
            q.const_data_ptr<T>() + offset(b, h, group, K),
            k.const_data_ptr<T>() + offset(b, h, 1, K),
            v.const_data_ptr<T>() + offset(b, h, 1, V),
            a.const_data_ptr<T>() + offset(b, h, 1, K),
            Hkv * group * K,
            Hkv * K,
            Hkv * V,
            Hkv * K};
  }
  template <typename Body>
  void for_each_head(const Body& body) const {
    at::parallel_for(0, B * Hkv, 1, [&](int64_t begin, int64_t end) {
      for (int64_t job = begin; job < end; ++job) body(job / Hkv, job % Hkv, job);
    });
  }
};

// Runs the forward pass; `state` is updated in place. `starts` stays undefined unless wanted.
template <typename T>
at::Tensor run_forward(const Scan<T>& scan, at::Tensor& state, at::Tensor* starts) {
  at::Tensor o = at::empty({scan.B, scan.tokens, scan.Hkv * scan.group, scan.V}, scan.q.options());
  if (starts) *starts = at::empty({scan.B * scan.Hkv, scan.chunks(), scan.K, scan.V}, scan.q.options());
  T* o_data = o.mutable_data_ptr<T>();
  T* state_data = state.mutable_data_ptr<T>();
  T* starts_data = starts ? starts->mutable_data_ptr<T>() : nullptr;
  const int64_t size = scan.K * scan.V;
  scan.for_each_head([&](int64_t b, int64_t h, int64_t job) {
    forward(scan.at(b, h), ScanHeadForward<T>{o_data + scan.offset(b, h, scan.group, scan.V),
                                              scan.Hkv * scan.group * scan.V, state_data + job * size,
                                              starts ? starts_data + job * scan.chunks() * size : nullptr});
  });
  return o;
}

template <typename T>
torch::autograd::variable_list run_backward(const Scan<T>& scan, const at::Tensor& starts, const at::Tensor& grad_o,
                                            at::Tensor dstate) {
  at::Tensor dq = at::empty_like(scan.q), dk = at::empty_like(scan.k), dv = at::empty_like(scan.v),
             dg = at::empty_like(scan.a);
  const int64_t size = scan.K * scan.V;
  T *dq_data = dq.mutable_data_ptr<T>(), *dk_data = dk.mutable_data_ptr<T>(), *dv_data = dv.mutable_data_ptr<T>(),
    *dg_data = dg.mutable_data_ptr<T>(), *dstate_data = dstate.mutable_data_ptr<T>();
  scan.for_each_head([&](int64_t b, int64_t h, int64_t job) {
    backward(scan.at(b, h),
             ScanHeadBackward<T>{starts.const_data_ptr<T>() + job * scan.chunks() * size,
                                 grad_o.const_data_ptr<T>() + scan.offset(b, h, scan.group, scan.V),
                                 scan.Hkv * scan.group * scan.V, dq_data + scan.offset(b, h, scan.group, scan.K),
                                 dk_data + scan.offset(b, h, 1, scan.K), dv_data + scan.offset(b, h, 1, scan.V),
                                 dg_data + scan.offset(b, h, 1, scan.K), dstate_data + job * size});
  });
  return {dq, dk, dv, dg, dstate};
}

class FusedScan : public torch::autograd::Function<FusedScan> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& q,
                                                const at::Tensor& k, const at::Tensor& v, const at::Tensor& g,
                                                const at::Tensor& state) {
    const at::Tensor qc = q.contiguous(), kc = k.contiguous(), vc = v.contiguous(), a = g.exp().contiguous();
    at::Tensor last = state.clone(at::MemoryFormat::Contiguous), starts;
    const at::Tensor o = q.scalar_type() == at::kFloat ? run_forward<float>({qc, kc, vc, a}, last, &starts)
                                                       : run_forward<double>({qc, kc, vc, a}, last, &starts);
    context->save_for_backward({qc, kc, vc, a, starts});
    return {o, last};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &a = saved[3], &starts = saved[4];
    const at::Tensor grad_o = grads[0].defined()
                                  ? grads[0].contiguous()
                                  : at::zeros({q.size(0), q.size(1), q.size(2), v.size(3)}, q.options());
    const at::Tensor dstate = grads[1].defined()
                                  ? grads[1].clone(at::MemoryFormat::Contiguous)
                                  : at::zeros({q.size(0), k.size(2), k.size(3), v.size(3)}, q.options());
    return q.scalar_type() == at::kFloat ? run_backward<float>({q, k, v, a}, starts, grad_o, dstate)
                                         : run_backward<double>({q, k, v, a}, starts, grad_o, dstate);
  }
};

}  // namespace

ScanOutputs diagonal_scan_fused(const ScanInputs& in) {
  if (wants_gradient(in)) {
    auto out = FusedScan::apply(in.q, in.k, in.v, in.g, in.state);
    return {out[0], out[1]};
  }
  const at::Tensor q = in.q.contiguous(), k = in.k.contiguous(), v = in.v.contiguous(),
                   a = in.g.exp().contiguous();
  at::Tensor state = in.state.clone(at::MemoryFormat::Contiguous);
  const at::Tensor o = q.scalar_type() == at::kFloat ? run_forward<float>({q, k, v, a}, state, nullptr)
                                                     : run_forward<double>({q, k, v, a}, state, nullptr);
  return {o, state};
}

}  // namespace liger
