#pragma once

#include "liger_kernels.h"

namespace liger::kernels {

/// Gated linear recurrence, forward: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t, with a = exp(g).
/// Tokens of all sequences lie one after the other, N of them. Pointers are aligned to 16 bytes. Products are of
/// `type`'s precision (of 22 bits for float32), sums and states in float32; deterministic.
struct DiagonalScanForward {
  Type type;                   ///< of q, k, v and o
  int64_t sequences, H, Hkv, K, V;
  int64_t T;                   ///< tokens of each sequence; not used with `starts`
  const int64_t* starts;       ///< [sequences + 1]: sequence s has tokens starts[s] .. starts[s + 1] - 1; or nullptr
  const void* q;               ///< [N, H, K]
  const void* k;               ///< [N, Hkv, K]
  const void* v;               ///< [N, Hkv, V]
  const float* g;              ///< [N, Hkv, K], <= 0; not used with raw features
  Features features;
  const float* state_in;       ///< [sequences, Hkv, K, V], or nullptr for zeros
  float* state_out;            ///< as state_in; may not be it
  void* o;                     ///< [N, H, V]
};
/// nullptr if these sizes can run: K of 64 and V a multiple of it, or K of 128 or 256 and V a
/// multiple of 128; H a multiple of Hkv. Else the reason.
const char* diagonal_scan_fwd_refuses(const DiagonalScanForward& args);
/// `stream` is a cudaStream_t.
const char* diagonal_scan_fwd(const DiagonalScanForward& args, void* stream);

}  // namespace liger::kernels
