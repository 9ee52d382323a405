// Passes whose readers sum over the columns of a state: the gradients d_q (forward in time) and d_k, d_g (backward).
//
// A block of threads owns a slice of K's rows of one state, which never leaves its registers: each warp holds 16 rows,
// as rows of an accumulator [16, V], whose registers are at once those of the operand S of S d_o. A thread then has one
// channel and every other token: decays, and all that is scaled by them, meet there in float32. The query heads of a
// group take turns at the state, kHeads at a time.
#pragma once

#include "diagonal_pass.cuh"

namespace liger::kernels {

template <typename E, int K, int kHeads, bool kForward, int kStagesAsked>
struct RowsLayout {
  static constexpr int kStages = kStagesAsked, kWarps = K == 64 ? 4 : 8, kSlice = 16 * kWarps;
  static constexpr int kRow = pitch(K, sizeof(E)), kSliceRow = pitch(kSlice, sizeof(E)), kDecayRow = K + 4;
  static constexpr int kReadRow = kSlice + 4;
  static constexpr int kWriters = kForward ? 1 : kHeads, kReaders = kForward ? kHeads : 1;

  struct Raw {
    alignas(16) E q[kHeads * kTokens * kRow];
    alignas(16) E k[kTokens * kRow];
    alignas(16) E v[kTokens * kRow];
    alignas(16) E d_o[kHeads * kTokens * kRow];
    alignas(16) float g[kTokens * kDecayRow];
    alignas(16) float q_d_q[kForward ? 4 : kTokens * kSlice];
  };
  Raw raw[kStages];
  alignas(16) E written[kWriters * kTokens * kSliceRow];        ///< k R, or q P
  alignas(16) float read[kReaders * kTokens * kReadRow];        ///< S d_o of each head, or Z v: [token][row]
  alignas(16) float products[kHeads * kTokens * kTokens];       ///< d_o_i v_j: [i][j], or backward [j][i]
  alignas(16) float share[kForward ? 4 : kTokens * kSlice];     ///< of d_g: q d_q - k d_k
  alignas(16) float rest[kSlice];                               ///< of d_g, from beyond this part
  alignas(16) float whole[kSlice];                              ///< P_15
};

template <typename E, int K, int kHeads, bool kForward, typename L>
class Rows {
  static constexpr int kThreads = 32 * L::kWarps, kSlice = L::kSlice;

 public:
  LIGER_DEVICE Rows(const DiagonalPass& pass, L& shared) : pass_(pass), p_(pass.scan), s_(shared), place_(p_) {
    kv_head_ = blockIdx.y;
    turns_ = p_.H / p_.Hkv / kHeads;
    row_ = static_cast<int>(blockIdx.x) * kSlice;
    warp_ = static_cast<int>(threadIdx.x) / 32;
    channel_ = static_cast<int>(threadIdx.x) % kSlice;
    parity_ = static_cast<int>(threadIdx.x) / kSlice;
  }

  LIGER_DEVICE void run() {
    load_state();
    const int64_t rounds = place_.steps() * turns_;
    if (rounds > 0) fetch(0, 0);
    int stage = 0;
    for (int64_t round = 0; round < rounds; ++round) {
      wait_for_copies<0>();
      __syncthreads();
      if (L::kStages == 2 && round + 1 < rounds) fetch(round + 1, stage ^ 1);
      step(s_.raw[stage], round);
      if (L::kStages == 1) {
        __syncthreads();
        if (round + 1 < rounds) fetch(round + 1, 0);
      } else {
        stage ^= 1;
      }
    }
    store_state();
  }

 private:
  LIGER_DEVICE int64_t step_of(int64_t round) const {
    return kForward ? round / turns_ : place_.steps() - 1 - round / turns_;
  }
  LIGER_DEVICE int64_t head_of(int64_t round) const { return (kv_head_ * turns_ + round % turns_) * kHeads; }

  template <typename T>
  LIGER_DEVICE void fetch(const T* from, int64_t first, int64_t stride, int n, T* to, int row) const {
    fetch_rows<kTokens, kThreads>(from, first, place_.begin, place_.end, stride, n, to, row);
  }
  LIGER_DEVICE void fetch(int64_t round, int stage) {
    typename L::Raw& raw = s_.raw[stage];
    const int64_t first = place_.begin + kTokens * step_of(round), head = head_of(round);
    for (int h = 0; h < kHeads; ++h) {
      if (uses_queries())
        fetch(static_cast<const E*>(p_.q) + (head + h) * K, first, p_.H * K, K, raw.q + h * kTokens * L::kRow, L::kRow);
      fetch(static_cast<const E*>(pass_.d_o) + (head + h) * K, first, p_.H * K, K, raw.d_o + h * kTokens * L::kRow,
            L::kRow);
    }
    fetch(static_cast<const E*>(p_.k) + kv_head_ * K, first, p_.Hkv * K, K, raw.k, L::kRow);
    fetch(static_cast<const E*>(p_.v) + kv_head_ * K, first, p_.Hkv * K, K, raw.v, L::kRow);
    if (!p_.features.raw) fetch(p_.g + kv_head_ * K, first, p_.Hkv * K, K, raw.g, L::kDecayRow);
    if constexpr (!kForward)
      if (pass_.d_g) fetch(pass_.q_d_q + kv_head_ * K + row_, first, p_.Hkv * K, kSlice, raw.q_d_q, kSlice);
    close_copies();
  }
  LIGER_DEVICE bool uses_queries() const { return !kForward || pass_.q_d_q; }

  LIGER_DEVICE void step(typename L::Raw& raw, int64_t round) {
    const int64_t turn = round % turns_, step = step_of(round), first = place_.begin + kTokens * step;
    const int there = static_cast<int>(smaller(place_.end - first, kTokens));
    if (p_.features.raw) {
      make_features<K, kTokens, L::kWarps, L::kRow, L::kDecayRow>(p_.features, kv_head_, there, raw.k, raw.g, raw.q,
                                                                  uses_queries() ? kHeads : 0);
      __syncthreads();
    }
    scale(raw);
    multiply(raw);
    if constexpr (kForward) {
      read_state(raw.d_o);
      __syncthreads();
      if (turn == turns_ - 1) write_state(raw.v, true);
      queries(raw, round, there);
    } else {
      if (turn == 0) {
        if (pass_.d_g) begin_part(step);
        read_state(raw.v);
      }
      __syncthreads();
      write_state(raw.d_o, turn == 0);
      keys(raw, round, there);
    }
  }

  // What is written to the state: k R, or q P of each head.
  LIGER_DEVICE void scale(const typename L::Raw& raw) {
    const int d = StepDecays::channel(), base = StepDecays::half() * kHalf;
    const StepDecays decays(raw.g + base * L::kDecayRow + row_ + d, L::kDecayRow);
    if (base == 0) s_.whole[d] = decays.whole();
    for (int h = 0; h < L::kWriters; ++h) {
      const E* from = kForward ? raw.k : raw.q + h * kTokens * L::kRow;
      LIGER_UNROLL
      for (int i = 0; i < kHalf; ++i) {
        const float decay = kForward ? decays.from_here[i] * decays.after : decays.to_here[i] * decays.before;
        round_to(to_float(from[(base + i) * L::kRow + row_ + d]) * decay,
                 s_.written[(h * kTokens + base + i) * L::kSliceRow + d]);
      }
    }
  }

  // d_o_i v_j, eight j and one head a warp.
  LIGER_DEVICE void multiply(const typename L::Raw& raw) {
    for (int job = warp_; job < 2 * kHeads; job += L::kWarps) {
      const int h = job / 2, n = job % 2 * 8;
      Accumulator c;
      LIGER_UNROLL
      for (int m = 0; m < K; m += 16)
        multiply_add(c, load_a(raw.d_o + h * kTokens * L::kRow + m, L::kRow), load_b(raw.v + n * L::kRow + m, L::kRow));
      float* out = s_.products + h * kTokens * kTokens;
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int i = lane_row() + e / 2 * 8, j = n + lane_column() + e % 2;
        out[kForward ? i * kTokens + j : j * kTokens + i] = c.x[e];
      }
    }
  }

  // S d_o or Z v: sixteen rows of the state a warp, sixteen tokens.
  LIGER_DEVICE void read_state(const E* columns) {
    Accumulator c[L::kReaders][2];
    LIGER_UNROLL
    for (int m = 0; m < K / 16; ++m) {
      OperandA<E> a;
      LIGER_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float* x = S_[2 * m + i / 2].x + i % 2 * 2;
        a.pair[i] = {rounded<E>(x[0]), rounded<E>(x[1])};
      }
      LIGER_UNROLL
      for (int h = 0; h < L::kReaders; ++h)
        LIGER_UNROLL
        for (int n = 0; n < 2; ++n)
          multiply_add(c[h][n], a, load_b(columns + (h * kTokens + n * 8) * L::kRow + m * 16, L::kRow));
    }
    LIGER_UNROLL
    for (int h = 0; h < L::kReaders; ++h)
      LIGER_UNROLL
      for (int n = 0; n < 2; ++n)
        LIGER_UNROLL
        for (int e = 0; e < 4; ++e)
          s_.read[(h * kTokens + n * 8 + lane_column() + e % 2) * L::kReadRow + warp_ * 16 + lane_row() + e / 2 * 8] =
              c[h][n].x[e];
  }
  LIGER_DEVICE void write_state(const E* columns, bool decays) {
    if (decays) {
      const float upper = s_.whole[warp_ * 16 + lane_row()], lower = s_.whole[warp_ * 16 + lane_row() + 8];
      LIGER_UNROLL
      for (int n = 0; n < K / 8; ++n)
        LIGER_UNROLL
        for (int e = 0; e < 4; ++e) S_[n].x[e] *= e < 2 ? upper : lower;
    }
    LIGER_UNROLL
    for (int h = 0; h < L::kWriters; ++h) {
      const OperandA<E> rows =
          load_a_transposed(s_.written + h * kTokens * L::kSliceRow + warp_ * 16, L::kSliceRow);
      LIGER_UNROLL
      for (int n = 0; n < K / 8; ++n)
        multiply_add(S_[n], rows, load_b_transposed(columns + h * kTokens * L::kRow + n * 8, L::kRow));
    }
  }

  struct alignas(16) Four {
    float x[4];
  };
  // d_q_i = P_i (S d_o_i) + sum over j <= i of (d_o_i v_j) w_j, where w_j = E_ij k_j follows i.
  LIGER_DEVICE void queries(const typename L::Raw& raw, int64_t round, int there) {
    const int64_t first = place_.begin + kTokens * step_of(round), head = head_of(round);
    if (round % turns_ == 0)
      LIGER_UNROLL
      for (int i = 0; i < kHalf; ++i) sums_[i] = 0;
    float w[kTokens], P = 1;
    LIGER_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      const float a = expf(raw.g[i * L::kDecayRow + row_ + channel_]);
      P *= a;
      LIGER_UNROLL
      for (int j = 0; j < i; ++j) w[j] *= a;
      w[i] = to_float(raw.k[i * L::kRow + row_ + channel_]);
      if (i % 2 != parity_) continue;
      for (int h = 0; h < kHeads; ++h) {
        const float* products = s_.products + (h * kTokens + i) * kTokens;
        float x = P * s_.read[(h * kTokens + i) * L::kReadRow + channel_];
        LIGER_UNROLL
        for (int j = 0; j <= i; j += 4) {
          const Four m = *reinterpret_cast<const Four*>(products + j);
          LIGER_UNROLL
          for (int l = 0; l < 4; ++l)
            if (j + l <= i) x += m.x[l] * w[j + l];
        }
        if (pass_.q_d_q) sums_[i / 2] += x * to_float(raw.q[(h * kTokens + i) * L::kRow + row_ + channel_]);
        if (i < there) pass_.rows[((first + i) * p_.H + head + h) * K + row_ + channel_] = x;
      }
    }
    if (!pass_.q_d_q || round % turns_ != turns_ - 1) return;
    LIGER_UNROLL
    for (int i = 0; i < kTokens; ++i)
      if (i % 2 == parity_ && i < there)
        pass_.q_d_q[((first + i) * p_.Hkv + kv_head_) * K + row_ + channel_] = sums_[i / 2];
  }

  // d_k_j = R_j (Z v_j) + sum over i >= j of (d_o_i v_j) w_i, where w_i = E_ij q_i follows j.
  LIGER_DEVICE void keys(const typename L::Raw& raw, int64_t round, int there) {
    float a[kTokens];
    LIGER_UNROLL
    for (int j = 0; j < kTokens; ++j) a[j] = expf(raw.g[j * L::kDecayRow + row_ + channel_]);
    if (round % turns_ == 0) {
      float R = 1;
      LIGER_UNROLL
      for (int j = kTokens - 1; j >= 0; --j) {
        if (j % 2 == parity_) sums_[j / 2] = R * s_.read[j * L::kReadRow + channel_];
        R *= a[j];
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      float w[kTokens];
      LIGER_UNROLL
      for (int j = kTokens - 1; j >= 0; --j) {
        LIGER_UNROLL
        for (int i = j + 1; i < kTokens; ++i) w[i] *= a[j + 1];
        w[j] = to_float(raw.q[(h * kTokens + j) * L::kRow + row_ + channel_]);
        if (j % 2 != parity_) continue;
        const float* products = s_.products + (h * kTokens + j) * kTokens;
        LIGER_UNROLL
        for (int i = j / 4 * 4; i < kTokens; i += 4) {
          const Four m = *reinterpret_cast<const Four*>(products + i);
          LIGER_UNROLL
          for (int l = 0; l < 4; ++l)
            if (i + l >= j) sums_[j / 2] += m.x[l] * w[i + l];
        }
      }
    }
    if (round % turns_ == turns_ - 1) store_keys(raw, step_of(round), there);
  }
  LIGER_DEVICE void store_keys(const typename L::Raw& raw, int64_t step, int there) {
    const int64_t first = ((place_.begin + kTokens * step) * p_.Hkv + kv_head_) * K + row_ + channel_;
    LIGER_UNROLL
    for (int j = 0; j < kTokens; ++j) {
      if (j % 2 != parity_) continue;
      const float x = sums_[j / 2];
      if (j < there) pass_.rows[first + j * p_.Hkv * K] = x;
      if (pass_.d_g)
        s_.share[j * kSlice + channel_] =
            raw.q_d_q[j * kSlice + channel_] - x * to_float(raw.k[j * L::kRow + row_ + channel_]);
    }
    if (!pass_.d_g) return;
    __syncthreads();
    if (parity_ != 0) return;
    if (ends_part(step)) d_g_ = s_.rest[channel_];
    for (int j = there - 1; j >= 0; --j) {
      d_g_ += s_.share[j * kSlice + channel_];
      pass_.d_g[first + j * p_.Hkv * K] = d_g_;
    }
  }

  LIGER_DEVICE bool ends_part(int64_t step) const {
    return step == place_.steps() - 1 || (step + 1) % place_.steps_of_part() == 0;
  }
  // Where a part ends, d_g begins with S Z summed over the columns.
  LIGER_DEVICE void begin_part(int64_t step) {
    if (!ends_part(step)) return;
    const bool is_last = place_.last && step == place_.steps() - 1;
    const float* S = is_last ? pass_.state_end : pass_.before;
    const int64_t index = is_last ? place_.sequence : part_index(place_.part + step / place_.steps_of_part() + 1);
    float total[2] = {};
    if (S && (!is_last || pass_.state_first))
      each_of_state(index, [&](float& x, int64_t at, int lower) { total[lower] += x * S[at]; });
    LIGER_UNROLL
    for (int i = 0; i < 2; ++i) {
      total[i] += exchange(total[i], 1);
      total[i] += exchange(total[i], 2);
      if (lane_column() == 0) s_.rest[warp_ * 16 + lane_row() + i * 8] = total[i];
    }
  }

  // Element e of S_[n] is row warp_ * 16 + lane_row() + e / 2 * 8 of the slice, column n * 8 + lane_column() + e % 2.
  template <typename Body>
  LIGER_DEVICE void each_of_state(int64_t index, const Body& body) {
    const int64_t state = ((index * p_.Hkv + kv_head_) * K + row_ + warp_ * 16 + lane_row()) * K + lane_column();
    LIGER_UNROLL
    for (int n = 0; n < K / 8; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 4; ++e) body(S_[n].x[e], state + e / 2 * 8 * K + n * 8 + e % 2, e / 2);
  }
  LIGER_DEVICE int64_t part_index(int64_t part) const { return place_.sequence * p_.parts + part; }
  LIGER_DEVICE void load_state() {
    const float* from = p_.side_by_side ? pass_.states : pass_.state_first;
    if (!from) return;
    each_of_state(p_.side_by_side ? part_index(place_.part) : place_.sequence,
                  [&](float& x, int64_t at, int) { x = from[at]; });
  }
  LIGER_DEVICE void store_state() {
    if (p_.side_by_side || !pass_.state_last) return;
    each_of_state(place_.sequence, [&](float& x, int64_t at, int) { pass_.state_last[at] = x; });
  }

  const DiagonalPass& pass_;
  const DiagonalScan& p_;
  L& s_;
  Place place_;
  int64_t kv_head_, turns_;
  int row_, warp_, channel_, parity_;
  float d_g_ = 0;
  float sums_[kHalf];  ///< of every other token: q d_q, or d_k
  Accumulator S_[K / 8];
};

template <typename E, int K, int kHeads, bool kForward, typename L>
__global__ void __launch_bounds__(32 * L::kWarps) diagonal_rows(const DiagonalPass pass) {
  LIGER_SHARED(memory);
  Rows<E, K, kHeads, kForward, L>(pass, *reinterpret_cast<L*>(memory)).run();
}

template <typename E, int K, int kHeads, bool kForward, typename L>
const char* run_rows(const DiagonalPass& pass, void* stream) {
  const DiagonalScan& p = pass.scan;
  const dim3 grid(K / L::kSlice, static_cast<unsigned>(p.Hkv),
                  static_cast<unsigned>(p.sequences * (p.side_by_side ? p.parts : 1)));
  return launch(kForward ? "diagonal scan backward, queries" : "diagonal scan backward, keys",
                diagonal_rows<E, K, kHeads, kForward, L>, grid, 32 * L::kWarps, sizeof(L), stream, pass);
}
// Two stages where they fit.
template <typename E, int K, int kHeads, bool kForward>
const char* run_rows_staged(const DiagonalPass& pass, void* stream) {
  using Two = RowsLayout<E, K, kHeads, kForward, 2>;
  using One = RowsLayout<E, K, kHeads, kForward, 1>;
  static_assert(sizeof(One) <= kSharedLimit, "does not fit");
  if constexpr (sizeof(Two) <= kSharedLimit) return run_rows<E, K, kHeads, kForward, Two>(pass, stream);
  else return run_rows<E, K, kHeads, kForward, One>(pass, stream);
}
// Four heads of a group together where that divides it and fits, else one: they share the loads of keys and values.
template <typename E, int K, bool kForward>
const char* run_rows_of_heads(const DiagonalPass& pass, void* stream) {
  if constexpr (sizeof(RowsLayout<E, K, 4, kForward, 1>) <= kSharedLimit)
    if (pass.scan.H / pass.scan.Hkv % 4 == 0) return run_rows_staged<E, K, 4, kForward>(pass, stream);
  return run_rows_staged<E, K, 1, kForward>(pass, stream);
}
template <typename E, bool kForward>
const char* run_rows_of_size(const DiagonalPass& pass, void* stream) {
  switch (pass.scan.K) {
    case 64: return run_rows_of_heads<E, 64, kForward>(pass, stream);
    case 128: return run_rows_of_heads<E, 128, kForward>(pass, stream);
    default: return run_rows_of_heads<E, 256, kForward>(pass, stream);
  }
}
template <bool kForward>
const char* run_rows_of_type(const DiagonalPass& pass, void* stream) {
  switch (pass.scan.type) {
    case Type::kBFloat16: return run_rows_of_size<BFloat16, kForward>(pass, stream);
    case Type::kHalf: return run_rows_of_size<Half, kForward>(pass, stream);
    default: return run_rows_of_size<float, kForward>(pass, stream);
  }
}

}  // namespace liger::kernels
