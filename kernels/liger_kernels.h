#pragma once

// The CUDA side of liger: raw device pointers, sizes and a stream. Includes nothing of torch, nor of the rest of
// liger. A launcher returns nullptr, or a static message saying why nothing was launched.

#include <cstdint>

namespace liger::kernels {

/// True if this library was compiled with nvcc.
bool compiled_with_cuda();

/// Gated linear recurrence, forward: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t, with a = exp(g).
struct DiagonalScanForward {
  int64_t B, T, H, Hkv, K, V;  ///< H a multiple of Hkv
  const float* q;              ///< [B, T, H, K]
  const float* k;              ///< [B, T, Hkv, K]
  const float* v;              ///< [B, T, Hkv, V]
  const float* g;              ///< [B, T, Hkv, K] log-decay, <= 0
  const float* state_in;       ///< [B, Hkv, K, V]
  float* state_out;            ///< [B, Hkv, K, V]; may be state_in
  float* o;                    ///< [B, T, H, V]
};
/// K must be 8, 16, 32, 64 or 128.
bool diagonal_scan_fwd_supports(int64_t K);
/// `stream` is a cudaStream_t.
const char* diagonal_scan_fwd(const DiagonalScanForward& args, void* stream);

}  // namespace liger::kernels
