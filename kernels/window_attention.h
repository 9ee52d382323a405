#pragma once

#include "liger_kernels.h"

namespace liger::kernels {

/// Sliding-window softmax attention: a query sees the last `window` keys of its sequence, its own included, and the
/// `sinks` first ones of the sequence once they have left the window. q and k are raw projections, rotated where they
/// are loaded (RoPE by halves); scores times D^-1/2. Tokens of all sequences lie one after the other, N of them.
/// Pointers are aligned to 16 bytes. Products are of `type`'s precision (of 22 bits for float32), softmax and sums in
/// float32; deterministic.
struct WindowAttentionForward {
  Type type;                   ///< of q, k, v, other and o
  int64_t sequences, H, Hkv, D;
  int64_t N;                   ///< tokens of all sequences; without `starts` each has N / sequences
  const int64_t* starts;       ///< [sequences + 1]: sequence s has tokens starts[s] .. starts[s + 1] - 1; or nullptr
  int64_t window, sinks;       ///< keys; window >= 1
  const void* q;               ///< [N, H, D]
  const void* k;               ///< [N, Hkv, D]
  const void* v;               ///< [N, Hkv, D]
  const float *cos, *sin;      ///< [N, D / 2]: of each token's position
  const int64_t* seen;         ///< [sequences]: tokens read before the first one here, then in the rings; nullptr: 0
  /// [sequences, Hkv, window + sinks, D]: rotated keys, and values, of what was read before: position p in slot
  /// p % window, and again in slot window + p where p < sinks. Not used without `seen`.
  const float *ring_keys, *ring_values;
  float share;                 ///< o = share * (the window's output) + other_share * other
  const void* other;           ///< [N, H, D], may be o; nullptr: zeros
  float other_share;
  void* o;                     ///< [N, H, D]
  float* lse;                  ///< [N, H]: the scores' log-sum-exp, for the backward pass; nullptr: not wanted
};
/// nullptr if these sizes can run: D of 64, 128 or 256; H a multiple of Hkv. Else the reason.
const char* window_attention_fwd_refuses(const WindowAttentionForward& args);
/// `stream` is a cudaStream_t.
const char* window_attention_fwd(const WindowAttentionForward& args, void* stream);

/// Its gradients, of the raw q and k, for sequences from their first token on (no ring).
struct WindowAttentionBackward {
  Type type;                   ///< of q, k, v, d_o, dq, dk and dv
  int64_t sequences, H, Hkv, D;
  int64_t N;                   ///< tokens of all sequences; without `starts` each has N / sequences
  const int64_t* starts;       ///< [sequences + 1], or nullptr
  int64_t window, sinks;
  const void* q;               ///< [N, H, D]
  const void* k;               ///< [N, Hkv, D]
  const void* v;               ///< [N, Hkv, D]
  const float *cos, *sin;      ///< [N, D / 2]
  const float* lse;            ///< [N, H], from the forward pass
  float share;                 ///< of the window in o
  const void* d_o;             ///< [N, H, D]: gradient of the mixed o
  const float* d_lse;          ///< [N, H]: gradient of lse; nullptr: zeros
  bool accumulate;             ///< add to what dq, dk and dv hold
  void* dq;                    ///< [N, H, D]
  void* dk;                    ///< [N, Hkv, D]
  void* dv;                    ///< [N, Hkv, D]
  float* workspace;            ///< of window_attention_bwd_workspace(args) bytes; its contents do not matter
};
const char* window_attention_bwd_refuses(const WindowAttentionBackward& args);
/// Bytes.
int64_t window_attention_bwd_workspace(const WindowAttentionBackward& args);
const char* window_attention_bwd(const WindowAttentionBackward& args, void* stream);

/// Puts the rotated keys, and the values, of new tokens into the rings, from which the next call reads them: after the
/// forward pass over the same tokens, which reads what is overwritten here.
struct WindowRemember {
  Type type;                   ///< of k and v
  int64_t sequences, Hkv, D;
  int64_t N;                   ///< tokens of all sequences; without `starts` each has N / sequences
  const int64_t* starts;       ///< [sequences + 1], or nullptr
  int64_t window, sinks;
  const void* k;               ///< [N, Hkv, D], raw
  const void* v;               ///< [N, Hkv, D]
  const float *cos, *sin;      ///< [N, D / 2]
  const int64_t* seen;         ///< [sequences]: tokens before the first one here; nullptr: 0
  float *ring_keys, *ring_values;  ///< [sequences, Hkv, window + sinks, D]; slots of positions not here stay
};
const char* window_remember_refuses(const WindowRemember& args);
const char* window_remember(const WindowRemember& args, void* stream);

}  // namespace liger::kernels
