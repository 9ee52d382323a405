// Forward pass of the diagonal scan, token by token: S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t.
//   q [B, T, H, K], k and g [B, T, Hkv, K], v [B, T, Hkv, V], o [B, T, H, V], state [B, Hkv, K, V], float32.
// One thread owns one column of one state: K values in registers, no shared memory, no barrier, no reduction across
// threads, so the result does not depend on the launch. All threads of a warp read the same q, k and g (broadcast).
// Invariant: nothing but exp(g) is exponentiated. For inference; training takes the chunked form.

#include <math.h>

#include "launch.h"
#include "liger_kernels.h"

namespace liger::kernels {
namespace {

constexpr int kThreads = 32;

template <int K>
__global__ void diagonal_scan_fwd_kernel(DiagonalScanForward p) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= p.V) return;
  const int64_t b = blockIdx.z, kv = blockIdx.y, group = p.H / p.Hkv;

  const int64_t state = (b * p.Hkv + kv) * K * p.V + column;
  float S[K];
LIGER_UNROLL
  for (int i = 0; i < K; ++i) S[i] = p.state_in[state + i * p.V];

  for (int64_t t = 0; t < p.T; ++t) {
    const int64_t token = b * p.T + t;
    const float* k = p.k + (token * p.Hkv + kv) * K;
    const float* g = p.g + (token * p.Hkv + kv) * K;
    const float v = p.v[(token * p.Hkv + kv) * p.V + column];
LIGER_UNROLL
    for (int i = 0; i < K; ++i) S[i] = expf(g[i]) * S[i] + k[i] * v;
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      const float* q = p.q + (token * p.H + h) * K;
      float sum = 0.0f;
LIGER_UNROLL
      for (int i = 0; i < K; ++i) sum += q[i] * S[i];
      p.o[(token * p.H + h) * p.V + column] = sum;
    }
  }
LIGER_UNROLL
  for (int i = 0; i < K; ++i) p.state_out[state + i * p.V] = S[i];
}

template <int K>
const char* launch(const DiagonalScanForward& p, void* stream) {
  const dim3 grid(static_cast<unsigned>((p.V + kThreads - 1) / kThreads), static_cast<unsigned>(p.Hkv),
                  static_cast<unsigned>(p.B));
  LIGER_LAUNCH(diagonal_scan_fwd_kernel<K>, grid, dim3(kThreads), stream, p);
  return LIGER_LAUNCH_ERROR();
}

}  // namespace

bool compiled_with_cuda() { return true; }

bool diagonal_scan_fwd_supports(int64_t K) { return K == 8 || K == 16 || K == 32 || K == 64 || K == 128; }

const char* diagonal_scan_fwd(const DiagonalScanForward& p, void* stream) {
  switch (p.K) {
    case 8: return launch<8>(p, stream);
    case 16: return launch<16>(p, stream);
    case 32: return launch<32>(p, stream);
    case 64: return launch<64>(p, stream);
    case 128: return launch<128>(p, stream);
    default: return "diagonal_scan_fwd: K must be 8, 16, 32, 64 or 128";
  }
}

}  // namespace liger::kernels
