#pragma once

// The CUDA side of liger: raw device pointers, sizes and a stream. Includes nothing of torch, nor of the rest of
// liger. A launcher returns nullptr, or a message saying why nothing was launched, which is the calling thread's until
// its next launch.

#include <cstdint>

namespace liger::kernels {

/// True if this library was compiled with nvcc.
bool compiled_with_cuda();

enum class Type { kFloat, kBFloat16, kHalf };

/// How a row of raw queries or keys becomes features (liger/core/structure.h, FeatureMap).
enum class Map { kIdentity, kSoftmax, kUnit, kComplement };
/// The log-decay of a raw key x, or of its mean over the channels (structure.h, Decay); kConstant: `constants`.
enum class Gate { kConstant, kLogSigmoid, kSoftplus, kExp };

/// What a kernel makes of raw projections while it loads them.
struct Features {
  bool raw = false;  ///< false: q and k are features already, and g is given
  Map query = Map::kIdentity, key = Map::kIdentity;
  Gate gate = Gate::kConstant;
  bool per_channel = false;          ///< the gate's x is the key, not its mean
  float divisor = 1;                 ///< of the log-decay, except a constant one
  const float* constants = nullptr;  ///< [Hkv] on the device: log-decays; nullptr: 0
};

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
