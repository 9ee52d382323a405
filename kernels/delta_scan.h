#pragma once

#include "liger_kernels.h"

namespace liger::kernels {

/// The delta rule's scan: with S' = diag(a_t) S_{t-1}, a = exp(g),
///   r_t = v_t - S'^T k_t,   S_t = S' + b_t k_t r_t^T,   o_t = q_t^T S_t.
/// Tokens of all sequences lie one after the other, N of them. Pointers are aligned to 16 bytes. Products are of
/// `type`'s precision (of 22 bits for float32), the equations inside a chunk are solved in float32, sums and states
/// are float32; deterministic. What both passes are given:
struct DeltaScan {
  Type type;                   ///< of q, k, v, o and the gradients of v and o
  int64_t sequences, H, Hkv, K, V;
  int64_t T;                   ///< tokens of each sequence; not used with `starts`
  const int64_t* starts;       ///< [sequences + 1]: sequence s has tokens starts[s] .. starts[s + 1] - 1; or nullptr
  const void* q;               ///< [N, H, K]
  const void* k;               ///< [N, Hkv, K]
  const float* g;              ///< [N, Hkv, K], <= 0; not used with raw features
  const float* b;              ///< [N, Hkv]; not used with raw features: there it is sigmoid(mean of the raw key)
  Features features;
};

struct DeltaScanForward : DeltaScan {
  const void* v;               ///< [N, Hkv, V]
  const float* state_in;       ///< [sequences, Hkv, K, V], or nullptr for zeros
  float* state_out;            ///< as state_in; may not be it; nullptr: not wanted
  void* o;                     ///< [N, H, V]
  float* r;                    ///< [N, Hkv, V], for the backward pass; nullptr: not wanted
};
/// nullptr if these sizes can run: K of 64 and V a multiple of it, or K of 128 or 256 and V a
/// multiple of 128; H a multiple of Hkv. Else the reason.
const char* delta_scan_fwd_refuses(const DeltaScanForward& args);
/// `stream` is a cudaStream_t.
const char* delta_scan_fwd(const DeltaScanForward& args, void* stream);

/// The part of the backward pass that goes back in time: gradients of v, b and the first state, and what remains of the
/// others once this is done, plain sums along a diagonal scan. With u = b r and
///   S_t = diag(a_t) S_{t-1} + k_t u_t^T,   G_t = sum_h q_t d_o_t^T + diag(a_{t+1}) (G_{t+1} + k_{t+1} w_{t+1}^T)
/// (at the last token d_state_out in place of the second term), w_t = -d_v_t, d_state_in = diag(a_0) (G_0 + k_0 w_0^T):
///   d_q_t = S_t d_o_t,   d_k_t = G_t u_t + diag(a_t) S_{t-1} w_t,   d_b_t = r_t^T G_t^T k_t,
///   d_g_t = the sum over s >= t of q_s d_q_s (summed over heads) - k_s (G_s u_s) + k_s (diag(a_s) S_{s-1} w_s), and
///           the sum over columns of S d_state_out at the last token; all of it channel by channel.
struct DeltaScanBackwardValues : DeltaScan {
  const void* d_o;             ///< [N, H, V]
  const float* r;              ///< [N, Hkv, V], as the forward pass left it
  const float* d_state_out;    ///< [sequences, Hkv, K, V], or nullptr for zeros
  float* d_state_in;           ///< as d_state_out; may not be it; nullptr: not wanted
  void* d_v;                   ///< [N, Hkv, V]
  float* u;                    ///< [N, Hkv, V]
  float* w;                    ///< [N, Hkv, V], -d_v before it is rounded
  float* d_b;                  ///< [V / delta_scan_columns(K), N, Hkv]: parts, to be summed over the first dimension
  int64_t N;                   ///< tokens in all
};
/// Columns of a value that one block of threads has.
constexpr int64_t delta_scan_columns(int64_t K) { return K == 64 ? 64 : 128; }
const char* delta_scan_bwd_values_refuses(const DeltaScanBackwardValues& args);
const char* delta_scan_bwd_values(const DeltaScanBackwardValues& args, void* stream);

}  // namespace liger::kernels
