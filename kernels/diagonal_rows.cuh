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
    alignas(16) float d_g[kForward ? 4 : kTokens * kSlice];
  };
  Raw raw[kStages];
  alignas(16) E written[kWriters * kTokens * kSliceRow];        ///< k R, or q P
  alignas(16) float read[kReaders * kTokens * kReadRow];        ///< S d_o of each head, or Z v: [token][row]
  alignas(16) float products[kHeads * kTokens * kTokens];       ///< d_o_i v_j: [i][j], or backward [j][i]
  alignas(16) float share[kTokens * kSlice];                    ///< of d_g, from one thread of a channel to the other
  alignas(16) float rest[kSlice];                               ///< S Z where the part ends, summed over the columns
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
      if (pass_.d_g) fetch(pass_.d_g + kv_head_ * K + row_, first, p_.Hkv * K, kSlice, raw.d_g, kSlice);
    close_copies();
  }
  LIGER_DEVICE bool uses_queries() const { return !kForward || pass_.d_g; }

  LIGER_DEVICE void step(typename L::Raw& raw, int64_t round) {
    const int64_t turn = round % turns_, step = step_of(round), first = place_.begin + kTokens * step;
    const int there = static_cast<int>(smaller(place_.end - first, kTokens));
    if (p_.features.raw) {
      make_features<K, kTokens, L::kWarps, L::kRow, L::kDecayRow>(p_.features, kv_head_, there, raw.k, raw.g, raw.q,
                                                                  uses_queries() ? kHeads : 0);
      __syncthreads();
    }
    scale(raw);
    multiply(raw, turn == turns_ - 1 && p_.last_head_is_strict);
    if constexpr (kForward) {
      if (turn == 0) store_state_of_part(step);
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
        const float decay = kForward ? decays.from_here[i] * decays.after
                                     : decays.to_query(i, p_.reads_before_decay) * decays.before;
        round_to(to_float(from[(base + i) * L::kRow + row_ + d]) * decay,
                 s_.written[(h * kTokens + base + i) * L::kSliceRow + d]);
      }
    }
  }

  // d_o_i v_j, eight j and one head a warp.
  LIGER_DEVICE void multiply(const typename L::Raw& raw, bool last_is_strict) {
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
        const bool none = i == j && last_is_strict && h == kHeads - 1;
        out[kForward ? i * kTokens + j : j * kTokens + i] = none ? 0 : c.x[e];
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
  // d_q_i = P_i (S d_o_i) + sum over j <= i of (d_o_i v_j) w_j, where w_j = E_ij k_j follows i. Each of its terms also
  // goes into d_g of the decays that it has passed: those are `passed`.
  LIGER_DEVICE void queries(const typename L::Raw& raw, int64_t round, int there) {
    const int64_t first = place_.begin + kTokens * step_of(round), head = head_of(round);
    if (round % turns_ == 0)
      LIGER_UNROLL
      for (int t = 0; t <= kTokens; ++t) sums_[t] = 0;
    const bool wants_d_g = pass_.d_g != nullptr;
    float w[kTokens], P = 1;
    LIGER_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      // The decay that comes with i: its own, or that of the query before.
      float a = 1;
      if (!p_.reads_before_decay || i > 0)
        a = expf(raw.g[(p_.reads_before_decay ? i - 1 : i) * L::kDecayRow + row_ + channel_]);
      P *= a;
      LIGER_UNROLL
      for (int j = 0; j < i; ++j)
        if (j < i - 1 || !p_.reads_before_decay) w[j] *= a;
      w[i] = to_float(raw.k[i * L::kRow + row_ + channel_]);
      if (i % 2 != parity_) continue;
      for (int h = 0; h < kHeads; ++h) {
        const float* products = s_.products + (h * kTokens + i) * kTokens;
        const float q = wants_d_g ? to_float(raw.q[(h * kTokens + i) * L::kRow + row_ + channel_]) : 0;
        float x = P * s_.read[(h * kTokens + i) * L::kReadRow + channel_];
        if (wants_d_g) sums_[kTokens] += q * x;
        LIGER_UNROLL
        for (int j = 0; j <= i; j += 4) {
          const Four m = *reinterpret_cast<const Four*>(products + j);
          LIGER_UNROLL
          for (int l = 0; l < 4; ++l) {
            const int t = j + l;  // of the terms so far, all have passed the decay of token t, if it comes before i's read
            if (t > i) continue;
            if (wants_d_g && (t < i || !p_.reads_before_decay)) sums_[t] += q * x;
            x += m.x[l] * w[t];
          }
        }
        if (i < there) pass_.rows[((first + i) * p_.H + head + h) * K + row_ + channel_] = x;
      }
    }
    if (wants_d_g && round % turns_ == turns_ - 1) store_passed(first, there);
  }
  // For each token what queries of these 16 have read through its decay; and, where there is nothing of that kind (the
  // last token, for queries that read before), what they have read of the state at all, which else is the first's.
  LIGER_DEVICE void store_passed(int64_t first, int there) {
    float* share = s_.share + channel_;
    const int of_state = p_.reads_before_decay ? there - 1 : kTokens;
    // Selected, not assigned: the compiler would store at sums_ + of_state, and then keep all of this object in memory.
    const auto sum = [&](int t) { return t == of_state ? sums_[kTokens] : sums_[t]; };
    if (parity_ == 1)
      LIGER_UNROLL
      for (int t = 0; t < kTokens; ++t) share[t * kSlice] = sum(t);
    __syncthreads();
    if (parity_ == 1) return;
    float* out = pass_.d_g + (first * p_.Hkv + kv_head_) * K + row_ + channel_;
    LIGER_UNROLL
    for (int t = 0; t < kTokens; ++t)
      if (t < there) out[t * p_.Hkv * K] = sum(t) + share[t * kSlice];
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
        if (j % 2 == parity_) {
          sums_[j / 2] = R * s_.read[j * L::kReadRow + channel_];
          s_.share[j * kSlice + channel_] = sums_[j / 2] * to_float(raw.k[j * L::kRow + row_ + channel_]);
        }
        R *= a[j];
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      float w[kTokens];
      LIGER_UNROLL
      for (int j = kTokens - 1; j >= 0; --j) {
        LIGER_UNROLL
        for (int i = j + 1; i < kTokens; ++i)
          if (i > j + 1 || !p_.reads_before_decay) w[i] *= a[j + 1];
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
    for (int j = 0; j < kTokens; ++j)
      if (j % 2 == parity_ && j < there) pass_.rows[first + j * p_.Hkv * K] = sums_[j / 2];
    if (!pass_.d_g) return;
    __syncthreads();
    if (parity_ == 0) store_decays(raw, pass_.d_g + first, step, there);
  }
  // d_g_t is the sum of all terms that pass the decay of token t: of queries of these 16 (raw.d_g), of keys of these 16
  // to later queries (`share`), and from before them to after them. Only the last is a difference; it has all 16 decays
  // as factors, and is nothing where those leave less of it than the difference is exact to.
  LIGER_DEVICE void store_decays(const typename L::Raw& raw, float* out, int64_t step, int there) {
    constexpr float kExact = sizeof(E) == 4 ? 0x1p-22f : 0x1p-9f;
    const float *share = s_.share + channel_, *passed = raw.d_g + channel_;
    float written = 0;
    for (int j = 0; j < there; ++j) written += share[j * kSlice];
    const float end = ends_part(step) ? s_.rest[channel_] : d_g_;
    const float through = s_.whole[channel_] < kExact ? 0 : end - written;
    const int of_state = p_.reads_before_decay ? there - 1 : 0;
    float sum = through;
    for (int t = 0; t < there; ++t) {
      out[t * p_.Hkv * K] = sum + (p_.reads_before_decay && t == of_state ? 0 : passed[t * kSlice]);
      sum += share[t * kSlice];
    }
    d_g_ = through + passed[of_state * kSlice];
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
  LIGER_DEVICE void store_state_of_part(int64_t step) {
    if (p_.side_by_side || !pass_.states || step % place_.steps_of_part() != 0) return;
    each_of_state(part_index(step / place_.steps_of_part()),
                  [&](float& x, int64_t at, int) { pass_.states[at] = x; });
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
  float d_g_ = 0;                              ///< S Z before these 16 tokens, summed over the columns
  float sums_[kForward ? kTokens + 1 : kHalf];  ///< of the parts of d_g, or d_k of every other token
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
template <bool kForward>
const char* run_rows_of_type(const DiagonalPass& pass, void* stream) {
  return for_type_and_size(pass.scan.type, pass.scan.K, [&](auto element, auto size) {
    return run_rows_of_heads<decltype(element), decltype(size)::value, kForward>(pass, stream);
  });
}

}  // namespace liger::kernels
