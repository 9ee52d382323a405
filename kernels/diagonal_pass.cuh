// One pass over a diagonal scan, forward or backward in time, 16 tokens a step.
//
// Inside those 16, with P_i = a_0 ... a_i, R_j = a_{j+1} ... a_15 and E_ij = a_{j+1} ... a_i, the two states are
//   S <- diag(P_15) S + (k R)^T v                  forward in time: what keys have written
//   Z <- diag(P_15) Z + sum over heads (q P)^T d_o  backward in time: the gradient of S, what queries have written
// and what reads them either sums over the rows of a state, giving columns (diagonal_columns.cuh),
//   o_i = (q_i P_i) S + sum_{j <= i} (q_i E_ij k_j) v_j,   d_v_j = (k_j R_j) Z + sum_{i >= j} (q_i E_ij k_j) d_o_i
// or over its columns, giving rows (diagonal_rows.cuh):
//   d_q_i = P_i (S d_o_i) + sum_{j <= i} (d_o_i v_j) E_ij k_j,   d_k_j = R_j (Z v_j) + sum_{i >= j} (d_o_i v_j) E_ij q_i.
// Where queries read before their own decay, P_i and E_ij end with a_{i-1} for them (E_ii = 1).
// Nothing but g itself is exponentiated and decays are only multiplied, so that any g <= 0 is exact.
#pragma once

#include "diagonal_scan.h"
#include "dispatch.cuh"
#include "features.cuh"
#include "rows.cuh"

namespace liger::kernels {

struct DiagonalPass {
  DiagonalScan scan;
  const void* d_o;           ///< [N, H, V]
  const float* state_first;  ///< [sequences, Hkv, K, V]: S before the first token, or Z after the last; nullptr: zeros
  float* state_last;         ///< as state_first: what the pass ends with; nullptr: not wanted
  /// [sequences, parts, Hkv, K, V]: S before, or Z after, each part. Read with parts side by side, else written by the
  /// pass that makes d_q, where it is given; by passes that make states, what each part adds.
  float* states;
  float* decays;             ///< [sequences, parts, Hkv, K]: of each part, by passes that make states
  void* columns;             ///< o [N, H, V] or d_v [N, Hkv, V], of the scan's type
  float* rows;               ///< d_q [N, H, K] or d_k [N, Hkv, K]
  float* d_g;                ///< [N, Hkv, K]: with d_q a part of it, which it needs with d_k; nullptr: not wanted
  const float* before;       ///< with d_g: S before each part, as `states`
  const float* state_end;    ///< with d_g: S after the last part, as state_first; nullptr: its Z is zero
};

/// Launches; sizes have been checked.
const char* diagonal_columns_forward(const DiagonalPass& pass, void* stream);
const char* diagonal_columns_backward(const DiagonalPass& pass, void* stream);
const char* diagonal_rows_forward(const DiagonalPass& pass, void* stream);
const char* diagonal_rows_backward(const DiagonalPass& pass, void* stream);
/// What each part adds to S or Z, and its decay.
const char* diagonal_parts_forward(const DiagonalPass& pass, void* stream);
const char* diagonal_parts_backward(const DiagonalPass& pass, void* stream);

constexpr int kTokens = 16, kHalf = 8, kBits = 4;

LIGER_DEVICE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/// Where one block is at work: blockIdx.z is a sequence, or a part of one.
struct Place {
  int64_t sequence, part, parts;  ///< `part` is the first of `parts`
  int64_t begin, end, length;     ///< of those parts; tokens of a part
  bool last;                      ///< the sequence ends here
  LIGER_DEVICE explicit Place(const DiagonalScan& p) {
    sequence = p.side_by_side ? blockIdx.z / p.parts : blockIdx.z;
    part = p.side_by_side ? blockIdx.z % p.parts : 0;
    parts = p.side_by_side ? 1 : p.parts;
    const int64_t first = p.starts ? p.starts[sequence] : sequence * p.T;
    const int64_t last_token = p.starts ? p.starts[sequence + 1] : first + p.T;
    length = ((last_token - first + p.parts - 1) / p.parts + kTokens - 1) / kTokens * kTokens;
    begin = smaller(first + part * length, last_token);
    end = smaller(begin + parts * length, last_token);
    last = end == last_token;
  }
  /// Steps of 16 tokens.
  LIGER_DEVICE int64_t steps() const { return (end - begin + kTokens - 1) / kTokens; }
  LIGER_DEVICE int64_t steps_of_part() const { return length / kTokens; }
};

/// The decays of one channel in one step, as a thread has them: half a warp has 16 channels of the first eight tokens,
/// the other half the same of the last eight.
struct StepDecays {
  float a[kHalf];
  float to_here[kHalf];    ///< a_0 ... a_i of these eight
  float from_here[kHalf];  ///< a_{i+1} ... a_7 of these eight
  float before, after;     ///< products of the other eight, where those come before or after
  /// What a query i of these eight reads the decay with: a_0 ... a_i, or to a_{i-1} where it reads before.
  LIGER_DEVICE float to_query(int i, bool reads_before) const {
    return !reads_before ? to_here[i] : i == 0 ? 1 : to_here[i - 1];
  }
  LIGER_DEVICE StepDecays(const float* g, int row) {  // of the first of these eight; past the end g = 0, a = 1
    LIGER_UNROLL
    for (int i = 0; i < kHalf; ++i) a[i] = expf(g[i * row]);
    to_here[0] = a[0];
    from_here[kHalf - 1] = 1;
    LIGER_UNROLL
    for (int i = 1; i < kHalf; ++i) {
      to_here[i] = to_here[i - 1] * a[i];
      from_here[kHalf - 1 - i] = from_here[kHalf - i] * a[kHalf - i];
    }
    const float other = exchange(to_here[kHalf - 1], 16);
    before = half() == 0 ? 1 : other;
    after = half() == 0 ? other : 1;
  }
  LIGER_DEVICE float whole() const { return to_here[kHalf - 1] * before * after; }
  static LIGER_DEVICE int half() { return lane() / 16; }
  static LIGER_DEVICE int channel() { return static_cast<int>(threadIdx.x) / 32 * 16 + lane() % 16; }
};

}  // namespace liger::kernels
