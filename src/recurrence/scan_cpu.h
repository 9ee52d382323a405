#pragma once

#include <cstdint>

namespace liger {

/// Tokens between two states kept for the backward pass.
constexpr int64_t kScanChunk = 16;

/// One sequence and one key/value head of a diagonal scan, without torch. A token's vectors are contiguous; the
/// strides lead from one token to the next. `a` is exp(g).
template <typename T>
struct ScanHead {
  int64_t tokens, group, K, V;  // group = query heads that share the state
  const T* q;                   // [tokens, group, K]
  const T* k;                   // [tokens, K]
  const T* v;                   // [tokens, V]
  const T* a;                   // [tokens, K]
  int64_t q_stride, k_stride, v_stride, a_stride;
};

template <typename T>
struct ScanHeadForward {
  T* o;  // [tokens, group, V]
  int64_t o_stride;
  T* state;   // [K, V], updated in place
  T* starts;  // [ceil(tokens / kScanChunk), K, V], the state before each chunk; nullptr = not needed
};

template <typename T>
struct ScanHeadBackward {
  const T* starts;  // as the forward pass left them
  const T* grad_o;  // [tokens, group, V]
  int64_t grad_o_stride;
  T *dq, *dk, *dv, *dg;  // as q, k, v, a, with their strides
  T* dstate;             // [K, V]: in, the gradient of the last state; out, that of the first
};

/// The kernels as compiled for one instruction set.
struct ScanKernels {
  const char* name;
  void (*forward_f32)(const ScanHead<float>&, const ScanHeadForward<float>&);
  void (*forward_f64)(const ScanHead<double>&, const ScanHeadForward<double>&);
  void (*backward_f32)(const ScanHead<float>&, const ScanHeadBackward<float>&);
  void (*backward_f64)(const ScanHead<double>&, const ScanHeadBackward<double>&);
};
extern const ScanKernels kScanBaseline, kScanAvx2;

}  // namespace liger
