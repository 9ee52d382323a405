#pragma once

#include "liger_kernels.h"

namespace liger::kernels {

/// Gated linear recurrence: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = q_t^T S_t, with a = exp(g). Query heads h share
/// the state of key/value head h / (H / Hkv). Tokens of all sequences lie one after the other, N of them. Pointers are
/// aligned to 16 bytes. Products are of `type`'s precision (of 22 bits for float32), sums and states in float32;
/// deterministic.
struct DiagonalScan {
  Type type;              ///< of q, k, v, o and their gradients
  int64_t N, sequences, H, Hkv, K, V;
  int64_t T;              ///< tokens of each sequence; not used with `starts`
  const int64_t* starts;  ///< [sequences + 1]: sequence s has tokens starts[s] .. starts[s + 1] - 1; or nullptr
  const void* q;          ///< [N, H, K]
  const void* k;          ///< [N, Hkv, K]
  const void* v;          ///< [N, Hkv, V]
  const float* g;         ///< [N, Hkv, K], <= 0; not used with raw features
  Features features;
  bool reads_before_decay = false;  ///< o_t = q_t^T (S_{t-1} + k_t v_t^T)
  /// Backward: the last query head of each group reads and writes the state only where tokens differ.
  bool last_head_is_strict = false;
  /// Each sequence is cut into so many parts of as many tokens, a multiple of 16 (the last may have fewer, or none).
  int64_t parts = 1;
  /// Parts run side by side: first what each adds to the state, then the state before each, then all else. It costs a
  /// third more work, and is worth it where sequences * Hkv leaves most of a device idle.
  bool side_by_side = false;
};
/// Sets `parts` and `side_by_side` for a device of so many multiprocessors and sequences of `longest` tokens at most.
void plan_parts(DiagonalScan& scan, int64_t longest, int multiprocessors);

struct DiagonalScanForward {
  DiagonalScan scan;
  const float* state_in;  ///< [sequences, Hkv, K, V], or nullptr for zeros
  float* state_out;       ///< as state_in; may not be it; nullptr: not wanted
  /// [sequences, parts, Hkv, K, V], out: the state before each part. These two are needed with parts side by side only.
  float* states;
  float* decays;          ///< [sequences, parts, Hkv, K], workspace
  void* o;                ///< [N, H, V]
  /// `states` are there already, as an earlier pass over the same k, v and decays left them; state_out is not written.
  bool states_are_there = false;
};
/// K of 64 and V a multiple of it, or K of 128 or 256 and V a multiple of 128; H a multiple of Hkv.
const char* diagonal_scan_fwd_refuses(const DiagonalScanForward& args);
const char* diagonal_scan_fwd(const DiagonalScanForward& args, void* stream);

/// The same state read by its columns: y_t = S_t x_t, [N, H, K] in float32, of x [N, H, V] in the place of o's gradient.
/// What gated slot attention asks of its keys; V = K.
struct DiagonalScanRows {
  DiagonalScan scan;  ///< q is not used
  const void* x;      ///< [N, H, V]
  const float* state_in;
  float* state_out;   ///< these three as in DiagonalScanForward
  float* states;
  float* decays;
  float* y;           ///< [N, H, K]
};
const char* diagonal_scan_rows_refuses(const DiagonalScanRows& args);
const char* diagonal_scan_rows(const DiagonalScanRows& args, void* stream);

/// The gradients of o and of the last state, d_o and d_state_out, as gradients of all that went in.
/// With e_t = gradient of S_t: e_t = diag(a_{t+1}) e_{t+1} + q_t d_o_t^T, so that
///   d_q_t = S_t d_o_t,   d_k_t = e_t v_t,   d_v_t = e_t^T k_t,
/// and d_g_t sums the terms q_i d_q_i = k_j d_k_j of all pairs that its decay lies between. The usual form of it, the sum
/// over s >= t of q_s d_q_s - k_s d_k_s, loses all digits where decays are strong.
struct DiagonalScanBackward {
  DiagonalScan scan;         ///< as it went forward
  const void* d_o;           ///< [N, H, V]
  const float* d_state_out;  ///< [sequences, Hkv, K, V], or nullptr for zeros
  const float* state_out;    ///< as the forward pass left it; needed with d_state_out
  const float* states;       ///< as the forward pass left it, with parts side by side
  const float* state_in;     ///< as it went in
  void* d_q;                 ///< [N, H, K]
  void* d_k;                 ///< [N, Hkv, K], through the gate too with raw features
  void* d_v;                 ///< [N, Hkv, V], or nullptr: not wanted
  float* d_g;                ///< [N, Hkv, K], or nullptr: not wanted; not used with raw features
  float* d_state_in;         ///< [sequences, Hkv, K, V], or nullptr: not wanted
  void* workspace;           ///< diagonal_scan_bwd_workspace(args) bytes
};
/// V = K, of 64, 128 or 256; H a multiple of Hkv.
const char* diagonal_scan_bwd_refuses(const DiagonalScanBackward& args);
int64_t diagonal_scan_bwd_workspace(const DiagonalScanBackward& args);
const char* diagonal_scan_bwd(const DiagonalScanBackward& args, void* stream);

}  // namespace liger::kernels
