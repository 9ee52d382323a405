// Backward pass of sliding-window attention. With P the weights, dP = share d_o v^T and delta_i = sum_j P_ij dP_ij:
//   dS = P (dP - delta),   dq = dS k / sqrt(D),   dk = dS^T q / sqrt(D),   dv = share P^T d_o,
// of the rotated q and k; turned back where they are stored.
//
// Four kernels, none of which adds to what another block writes:
//   queries    a block has rows of queries and walks through its keys twice: for delta, which it also stores, then for
//              dq. (delta is d_o . o of the window's own o, which a mixed forward pass does not leave behind.)
//   sinks      a block has the sinks and kSinkRows rows of queries, and stores their part of the sinks' dk and dv
//   sum        adds up these parts, in order
//   keys       a block has keys and walks through the queries whose window they are in; where its keys are sinks it
//              adds that sum
// The one of the sinks is that of the keys with another mask. Scores are made turned there, keys as rows, so that
// weights go from accumulators to operands in registers, as in the forward pass.

#include "window_attention.cuh"

namespace liger::kernels {
namespace {

constexpr int kSinkRows = 1024;

/// delta [N, H], then a slot of the sinks' sums for each part of kSinkRows rows of a sequence.
struct Workspace {
  int64_t deltas, slots, slot;  ///< floats; slots; floats of a slot [Hkv, 2 (keys, values), sinks, D]
  int64_t floats() const { return deltas + slots * slot; }
};
Workspace workspace_of(const WindowAttentionBackward& p) {
  return {(p.N * p.H + 3) / 4 * 4, parts_of(p.N, p.sequences, p.H / p.Hkv, kSinkRows), p.Hkv * 2 * p.sinks * p.D};
}
struct Arguments {
  WindowAttentionBackward p;
  float *deltas, *sinks;
  bool of_sinks;  ///< of the kernel of keys: it is the one of the sinks
};
/// The sums of the sinks' keys of one slot and head; those of the values follow.
LIGER_DEVICE float* sink_sums(const Arguments& a, int64_t slot, int64_t kv_head) {
  return a.sinks + (slot * a.p.Hkv + kv_head) * 2 * a.p.sinks * a.p.D;
}

LIGER_DEVICE float quad_sum(float x) {
  x += exchange(x, 1);
  return x + exchange(x, 2);
}
// A row of D elements from rows `half` of accumulators. What is added is all read before anything is written: the loads
// need not wait for each other.
template <int D, int kSplit, typename E>
LIGER_DEVICE void add_row(const E* row, int half, int split, Accumulator (&c)[D / 8 / kSplit]) {
  LIGER_UNROLL
  for (int n = 0; n < D / 8 / kSplit; ++n) {
    const Pair<E> x = load_pair(row + column_of<D, kSplit>(n, split) + lane_column());
    c[n].x[2 * half] += to_float(x.x);
    c[n].x[2 * half + 1] += to_float(x.y);
  }
}
template <int D, int kSplit, typename E>
LIGER_DEVICE void store_row(Accumulator (&c)[D / 8 / kSplit], int half, int split, float scale, bool accumulate,
                            E* row) {
  LIGER_UNROLL
  for (int n = 0; n < D / 8 / kSplit; ++n)
    LIGER_UNROLL
    for (int e = 0; e < 2; ++e) c[n].x[2 * half + e] *= scale;
  if (accumulate) add_row<D, kSplit>(row, half, split, c);
  LIGER_UNROLL
  for (int n = 0; n < D / 8 / kSplit; ++n)
    *reinterpret_cast<Pair<E>*>(row + column_of<D, kSplit>(n, split) + lane_column()) = {
        rounded<E>(c[n].x[2 * half]), rounded<E>(c[n].x[2 * half + 1])};
}
/// The gradient of a rotated row to that of the raw one: (x, y) -> (x cos + y sin, y cos - x sin).
template <int D, int kSplit>
LIGER_DEVICE void turn_back(const float* cos, const float* sin, int half, int split,
                            Accumulator (&c)[D / 8 / kSplit]) {
  constexpr int kHalf = D / 16 / kSplit;
  LIGER_UNROLL
  for (int n = 0; n < kHalf; ++n) {
    const int at = column_of<D, kSplit>(n, split) + lane_column();
    const Pair<float> u = load_pair(cos + at), w = load_pair(sin + at);
    LIGER_UNROLL
    for (int e = 0; e < 2; ++e) {
      float &x = c[n].x[2 * half + e], &y = c[n + kHalf].x[2 * half + e];
      const float a = x, cosine = e == 0 ? u.x : u.y, sine = e == 0 ? w.x : w.y;
      x = a * cosine + y * sine;
      y = y * cosine - a * sine;
    }
  }
}

template <typename E, int D>
struct QueryLayout {
  static constexpr int kWarps = D * sizeof(E) <= 512 ? 4 : 2, kThreads = 32 * kWarps, kRows = 16 * kWarps;
  static constexpr int kKeys = kStreamed<E, D>, kRow = pitch(D, sizeof(E));
  using Keys = Stage<E, D, kKeys, kThreads>;

  alignas(16) E q[kRows * kRow];
  alignas(16) E d_o[kRows * kRow];
  Keys keys[2];
};

template <typename E, int D>
class QueryGradients {
  using L = QueryLayout<E, D>;
  static constexpr int kKeys = L::kKeys;

 public:
  LIGER_DEVICE QueryGradients(const Arguments& a, const Part& part, L& shared)
      : p_(a.p), deltas_(a.deltas), part_(part), s_(shared), queries_(queries_of(a.p, part)),
        window_(static_cast<int>(a.p.window)), sinks_(static_cast<int>(a.p.sinks)),
        tiles_(position(part.first), position(part.first + L::kRows - 1), window_, sinks_) {
    row_ = static_cast<int>(threadIdx.x) / 32 * 16;
    LIGER_UNROLL
    for (int half = 0; half < 2; ++half)
      lse_[half] = row_of(half) < queries_.rows ? p_.lse[queries_.at(row_of(half))] * kLog2E : 0;
  }

  LIGER_DEVICE void run() {
    const auto query = [&](int row) { return query_source<E, D>(p_, queries_, part_.first + row, p_.d_o); };
    load_rows<D, L::kRows, L::kThreads>(query, s_.q, s_.d_o);
    fetch(0);
    for (int step = 0; step < 2 * tiles_.count; ++step) {
      typename L::Keys& keys = s_.keys[step % 2];
      wait_for_copies<0>();
      keys.rotate_mine();
      __syncthreads();
      fetch(step + 1);
      if (step == tiles_.count) finish_delta();
      use(step % tiles_.count, step >= tiles_.count, keys);
    }
    wait_for_copies<0>();
    store();
  }

 private:
  LIGER_DEVICE int position(int row) const {
    const int last = queries_.rows - 1;
    return queries_.token(row < last ? row : last);
  }
  LIGER_DEVICE int row_of(int half) const { return part_.first + row_ + half * 8 + lane_row(); }

  LIGER_DEVICE void fetch(int step) {
    if (step < 2 * tiles_.count) {
      const int first = tiles_.position(step % tiles_.count);
      typename L::Keys& keys = s_.keys[step % 2];
      L::Keys::each_item([&](int item, int row, int element) {
        keys.fetch(item, row, element, key_source<E, D>(p_, part_, first + row));
      });
    }
    close_copies();
  }

  LIGER_DEVICE void use(int tile, bool for_dq, const typename L::Keys& keys) {
    const int first = tiles_.position(tile), last = first + kKeys - 1;
    const bool of_sinks = tiles_.of_sinks(tile);
    const Range a = seen_from(position(part_.first + row_), of_sinks, window_, sinks_);
    const Range b = seen_from(position(part_.first + row_ + 15), of_sinks, window_, sinks_);
    if (b.high < first || a.low >= last) return;  // none of this warp's queries sees any
    Accumulator P[1][kKeys / 8], dP[1][kKeys / 8];
    multiply_rows<D>(s_.q + row_ * L::kRow, keys.rotated, P);
    multiply_rows<D>(s_.d_o + row_ * L::kRow, keys.partner, dP);
    const float scale = kLog2E / sqrtf(static_cast<float>(D));
    LIGER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Range range = seen_from(position(row_of(half)), of_sinks, window_, sinks_);
      LIGER_UNROLL
      for (int n = 0; n < kKeys / 8; ++n)
        LIGER_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int i = 2 * half + e, key = first + n * 8 + lane_column() + e;
          const bool seen = key > range.low && key <= range.high;
          const float weight = seen ? exp2f(P[0][n].x[i] * scale - lse_[half]) : 0;
          const float gradient = dP[0][n].x[i] * p_.share;
          if (for_dq) P[0][n].x[i] = weight * (gradient - delta_[half]);
          else delta_[half] += weight * gradient;
        }
    }
    if (for_dq) multiply_weights<D, 1, 1, kKeys>(P, keys.rotated, 0, dq_);
  }
  LIGER_DEVICE void finish_delta() {
    LIGER_UNROLL
    for (int half = 0; half < 2; ++half) {
      delta_[half] = quad_sum(delta_[half]);
      if (row_of(half) >= queries_.rows) continue;
      const int64_t at = queries_.at(row_of(half));
      if (p_.d_lse) delta_[half] -= p_.d_lse[at];  // of a score it is the gradient times P
      if (lane_column() == 0) deltas_[at] = delta_[half];
    }
  }
  LIGER_DEVICE void store() {
    LIGER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      if (row >= queries_.rows) continue;
      const int64_t angles = (part_.begin + queries_.token(row)) * (D / 2);
      turn_back<D, 1>(p_.cos + angles, p_.sin + angles, half, 0, dq_[0]);
      store_row<D, 1>(dq_[0], half, 0, 1 / sqrtf(static_cast<float>(D)), p_.accumulate,
                      static_cast<E*>(p_.dq) + queries_.at(row) * D);
    }
  }

  const WindowAttentionBackward& p_;
  float* const deltas_;
  const Part part_;
  L& s_;
  const Queries queries_;
  const int window_, sinks_;
  const KeyTiles<kKeys> tiles_;
  int row_;  ///< the warp's first of the block's
  float lse_[2], delta_[2] = {};
  Accumulator dq_[1][D / 8];
};

/// A warp has 16 keys; of 256 columns it has half.
template <typename E, int D>
struct KeyLayout {
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kSplit = D == 256 ? 2 : 1, kKeys = 16 * kWarps / kSplit;
  static constexpr int kRows = kStreamed<E, D>, kRow = pitch(D, sizeof(E));

  struct Rows : Stage<E, D, kRows, kThreads> {
    float lse[kRows], delta[kRows];
  };
  alignas(16) E k[kKeys * kRow];
  alignas(16) E v[kKeys * kRow];
  Rows rows[2];
};

template <typename E, int D>
class KeyGradients {
  using L = KeyLayout<E, D>;
  static constexpr int kSplit = L::kSplit, kRows = L::kRows, kColumns = D / 8 / kSplit;

 public:
  LIGER_DEVICE KeyGradients(const Arguments& a, const Part& part, L& shared)
      : a_(a), p_(a.p), part_(part), s_(shared), queries_(queries_of(a.p, part)),
        window_(static_cast<int>(a.p.window)), sinks_(static_cast<int>(a.p.sinks)) {
    const int warp = static_cast<int>(threadIdx.x) / 32, group = queries_.group;
    split_ = warp % kSplit;
    row_ = warp / kSplit * 16;
    if (a.of_sinks) {
      first_ = static_cast<int>(blockIdx.z) * L::kKeys;
      begin_ = part.first;
      end_ = part.first + kSinkRows;
      if (begin_ < window_ * group) begin_ = window_ * group;
    } else {
      first_ = part.first;
      begin_ = first_ * group;
      end_ = (first_ + L::kKeys - 1 + window_) * group;
    }
    if (end_ > queries_.rows) end_ = queries_.rows;
  }

  LIGER_DEVICE void run() {
    load_rows<D, L::kKeys, L::kThreads>([&](int row) { return key_source<E, D>(p_, part_, first_ + row); }, s_.k, s_.v);
    fetch(begin_, 0);
    int stage = 0;
    for (int row = begin_; row < end_; row += kRows, stage ^= 1) {
      wait_for_copies<0>();
      s_.rows[stage].rotate_mine();
      __syncthreads();
      fetch(row + kRows, stage ^ 1);
      use(row, s_.rows[stage]);
    }
    wait_for_copies<0>();
    LIGER_UNROLL
    for (int half = 0; half < 2; ++half) a_.of_sinks ? store_sinks(half) : store(half);
  }

 private:
  LIGER_DEVICE void fetch(int first, int stage) {
    if (first < end_) {
      typename L::Rows& rows = s_.rows[stage];
      L::Rows::each_item([&](int item, int row, int element) {
        rows.fetch(item, row, element, query_source<E, D>(p_, until_end(), first + row, p_.d_o));
      });
      if (const int i = static_cast<int>(threadIdx.x); i < kRows) {
        const bool there = first + i < end_;
        const int64_t at = queries_.at(there ? first + i : 0);
        copy_float_async(rows.lse + i, p_.lse + at, there);
        copy_float_async(rows.delta + i, a_.deltas + at, there);
      }
    }
    close_copies();
  }
  LIGER_DEVICE Queries until_end() const {
    Queries out = queries_;
    out.rows = end_;
    return out;
  }

  // Which tokens see key `position` runs from its first to its last, as which keys a token sees.
  LIGER_DEVICE Range seen_by(int position) const {
    if (!a_.of_sinks) return {position, position + window_ - 1};
    return {position + window_, position < sinks_ ? INT32_MAX : -1};
  }
  LIGER_DEVICE void use(int row, const typename L::Rows& rows) {
    const int first = queries_.token(row), last = queries_.token(row + kRows - 1), key = first_ + row_;
    const Range a = seen_by(key), b = seen_by(key + 15);
    if (last < a.low || (first > b.high && first > a.high)) return;  // none of this warp's keys is seen by any
    const bool all = first >= b.low && last <= a.high && last <= b.high;
    Accumulator P[1][kRows / 8], dP[1][kRows / 8];
    multiply_rows<D>(s_.k + row_ * L::kRow, rows.rotated, P);
    multiply_rows<D>(s_.v + row_ * L::kRow, rows.partner, dP);
    const float scale = kLog2E / sqrtf(static_cast<float>(D));
    const Range of[2] = {seen_by(key + lane_row()), seen_by(key + lane_row() + 8)};
    LIGER_UNROLL
    for (int n = 0; n < kRows / 8; ++n)
      LIGER_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int column = n * 8 + lane_column() + e, token = all ? 0 : queries_.token(row + column);
        const float lse = rows.lse[column] * kLog2E, delta = rows.delta[column];
        LIGER_UNROLL
        for (int half = 0; half < 2; ++half) {
          float &weight = P[0][n].x[2 * half + e], &gradient = dP[0][n].x[2 * half + e];
          const bool seen = all || (token >= of[half].low && token <= of[half].high);
          weight = seen ? exp2f(weight * scale - lse) : 0;
          gradient = weight * (gradient * p_.share - delta);
        }
      }
    multiply_weights<D, kSplit, 1, kRows>(P, rows.partner, split_, dv_);
    multiply_weights<D, kSplit, 1, kRows>(dP, rows.rotated, split_, dk_);
  }

  LIGER_DEVICE int key_of(int half) const { return first_ + row_ + half * 8 + lane_row(); }
  LIGER_DEVICE void store_sinks(int half) {
    const int sink = key_of(half);
    if (sink >= sinks_) return;
    float* keys = sink_sums(a_, blockIdx.x, blockIdx.y) + sink * D;
    store_row<D, kSplit>(dk_[0], half, split_, 1, false, keys);
    store_row<D, kSplit>(dv_[0], half, split_, 1, false, keys + static_cast<int64_t>(sinks_) * D);
  }
  LIGER_DEVICE void store(int half) {
    const int key = key_of(half);
    if (key >= part_.length) return;
    if (key < sinks_) {
      const int64_t slot = part_index(part_.begin, part_.sequence, queries_.group, kSinkRows);
      const float* keys = sink_sums(a_, slot, blockIdx.y) + key * D;
      add_row<D, kSplit>(keys, half, split_, dk_[0]);
      add_row<D, kSplit>(keys + static_cast<int64_t>(sinks_) * D, half, split_, dv_[0]);
    }
    const int64_t token = part_.begin + key, row = (token * p_.Hkv + blockIdx.y) * D, angles = token * (D / 2);
    turn_back<D, kSplit>(p_.cos + angles, p_.sin + angles, half, split_, dk_[0]);
    store_row<D, kSplit>(dk_[0], half, split_, 1 / sqrtf(static_cast<float>(D)), p_.accumulate,
                         static_cast<E*>(p_.dk) + row);
    store_row<D, kSplit>(dv_[0], half, split_, p_.share, p_.accumulate, static_cast<E*>(p_.dv) + row);
  }

  const Arguments& a_;
  const WindowAttentionBackward& p_;
  const Part part_;
  L& s_;
  const Queries queries_;
  const int window_, sinks_;
  int first_, begin_, end_;  ///< the block's first key; its rows of queries
  int row_, split_;          ///< the warp's first key of the block's; its share of the columns
  Accumulator dk_[1][kColumns], dv_[1][kColumns];
};

template <typename E, int D>
__global__ void __launch_bounds__(QueryLayout<E, D>::kThreads) window_attention_queries_kernel(const Arguments a) {
  LIGER_SHARED(memory);
  using L = QueryLayout<E, D>;
  const Part part = find_part(a.p, a.p.H / a.p.Hkv, L::kRows);
  if (part.first >= part.length * (a.p.H / a.p.Hkv)) return;
  QueryGradients<E, D>(a, part, *reinterpret_cast<L*>(memory)).run();
}
template <typename E, int D>
__global__ void __launch_bounds__(KeyLayout<E, D>::kThreads) window_attention_keys_kernel(const Arguments a) {
  LIGER_SHARED(memory);
  using L = KeyLayout<E, D>;
  const int64_t rows = a.of_sinks ? a.p.H / a.p.Hkv : 1;  // of a token
  const Part part = find_part(a.p, rows, a.of_sinks ? kSinkRows : L::kKeys);
  if (part.first >= part.length * rows) return;
  KeyGradients<E, D>(a, part, *reinterpret_cast<L*>(memory)).run();
}
/// A thread adds up one number of the sinks' sums, over the parts of a sequence, to where the first part's was.
__global__ void window_attention_sum_kernel(const Arguments a) {
  const WindowAttentionBackward& p = a.p;
  const int64_t begin = start_of(p, blockIdx.z), group = p.H / p.Hkv;
  const int64_t rows = (start_of(p, blockIdx.z + 1) - begin) * group;
  const int64_t slot = part_index(begin, blockIdx.z, group, kSinkRows), stride = p.Hkv * 2 * p.sinks * p.D;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rows == 0 || at >= stride) return;
  float* first = a.sinks + slot * stride + at;
  float total = 0;
  for (int64_t part = 0; part * kSinkRows < rows; ++part) total += first[part * stride];
  *first = total;
}

template <typename E, int D>
const char* run_keys(Arguments a, bool of_sinks, void* stream) {
  using L = KeyLayout<E, D>;
  static_assert(sizeof(L) <= kSharedLimit, "does not fit");
  a.of_sinks = of_sinks;
  const WindowAttentionBackward& p = a.p;
  const int64_t parts = of_sinks ? parts_of(p.N, p.sequences, p.H / p.Hkv, kSinkRows)
                                 : parts_of(p.N, p.sequences, 1, L::kKeys);
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(p.Hkv),
                  static_cast<unsigned>(of_sinks ? (p.sinks + L::kKeys - 1) / L::kKeys : 1));
  return launch("window_attention_keys", window_attention_keys_kernel<E, D>, grid, L::kThreads, sizeof(L), stream, a);
}
template <typename E, int D>
const char* run_queries(const Arguments& a, void* stream) {
  using L = QueryLayout<E, D>;
  static_assert(sizeof(L) <= kSharedLimit, "does not fit");
  const dim3 grid(static_cast<unsigned>(parts_of(a.p.N, a.p.sequences, a.p.H / a.p.Hkv, L::kRows)),
                  static_cast<unsigned>(a.p.Hkv));
  return launch("window_attention_queries", window_attention_queries_kernel<E, D>, grid, L::kThreads, sizeof(L), stream,
                a);
}
const char* run_sum(const Arguments& a, void* stream) {
  constexpr unsigned kThreads = 128;
  const dim3 grid(static_cast<unsigned>((workspace_of(a.p).slot + kThreads - 1) / kThreads), 1,
                  static_cast<unsigned>(a.p.sequences));
  return launch("window_attention_sum", window_attention_sum_kernel, grid, kThreads, 0, stream, a);
}

}  // namespace

const char* window_attention_bwd_refuses(const WindowAttentionBackward& p) {
  if (p.sequences > 65535) return "at most 65535 sequences";
  return window_queries_refused(p);
}

int64_t window_attention_bwd_workspace(const WindowAttentionBackward& p) {
  return workspace_of(p).floats() * static_cast<int64_t>(sizeof(float));
}

const char* window_attention_bwd(const WindowAttentionBackward& p, void* stream) {
  if (const char* reason = window_attention_bwd_refuses(p)) return reason;
  if (p.sequences == 0 || p.N == 0) return nullptr;
  const Arguments a = {p, p.workspace, p.workspace + workspace_of(p).deltas, false};
  return for_type_and_size(p.type, p.D, [&](auto element, auto size) -> const char* {
    using E = decltype(element);
    constexpr int D = decltype(size)::value;
    if (const char* problem = run_queries<E, D>(a, stream)) return problem;
    if (p.sinks > 0) {
      if (const char* problem = run_keys<E, D>(a, true, stream)) return problem;
      if (const char* problem = run_sum(a, stream)) return problem;
    }
    return run_keys<E, D>(a, false, stream);
  });
}

}  // namespace liger::kernels
