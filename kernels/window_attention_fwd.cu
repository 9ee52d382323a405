// Forward pass of sliding-window attention: o = share softmax(q k^T / sqrt(D)) v + other_share other, over the last
// `window` keys and the sinks, q and k rotated here.
//
// A block has rows of one key/value head's queries (window_attention.cuh) and walks through the tiles of keys that
// these see: softmax as it goes, with the largest score and the sum of each row so far. A warp has 16 or 32 rows: their
// output never leaves its registers, their weights go from accumulators to operands there. While a tile is used the
// next one is on its way; one barrier a tile. Tiles begin where the window of the block's first query begins, so that a
// window of 65 and 32 tokens of four heads take three tiles of 32 keys.
//
// Where a text goes on, keys from before its first new token come from the ring, already rotated.

#include "window_attention.cuh"

namespace liger::kernels {
namespace {

template <typename E, int D>
struct Layout {
  static constexpr int kTiles = sizeof(E) == 2 && D <= 128 ? 2 : 1, kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kRows = 16 * kTiles * kWarps, kKeys = kStreamed<E, D>, kRow = pitch(D, sizeof(E));
  using Keys = Stage<E, D, kKeys, kThreads>;

  alignas(16) E q[kRows * kRow];
  Keys keys[2];
};

template <typename E, int D>
class WindowForward {
  using L = Layout<E, D>;
  static constexpr int kTiles = L::kTiles, kKeys = L::kKeys, kColumns = D / 8;

 public:
  LIGER_DEVICE WindowForward(const WindowAttentionForward& p, const Part& part, L& shared)
      : p_(p), part_(part), s_(shared), queries_(queries_of(p, part)),
        seen_(p.seen ? static_cast<int>(p.seen[part.sequence]) : 0), window_(static_cast<int>(p.window)),
        sinks_(static_cast<int>(p.sinks)),
        tiles_(position(part.first), position(part.first + L::kRows - 1), window_, sinks_) {
    row_ = static_cast<int>(threadIdx.x) / 32 * 16 * kTiles;
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m) largest_[m][0] = largest_[m][1] = -INFINITY;
  }

  LIGER_DEVICE void run() {
    fetch(0);
    const auto query = [&](int row) { return query_source<E, D>(p_, queries_, part_.first + row, p_.q); };
    load_rows<D, L::kRows, L::kThreads>(query, s_.q, static_cast<E*>(nullptr));
    for (int tile = 0; tile < tiles_.count; ++tile) {
      typename L::Keys& keys = s_.keys[tile % 2];
      wait_for_copies<0>();
      keys.rotate_mine();
      __syncthreads();
      fetch(tile + 1);
      use(tile, keys);
    }
    wait_for_copies<0>();
    store();
  }

 private:
  // Rows past the end are of the last token where it matters which keys they see.
  LIGER_DEVICE int position(int row) const {
    const int last = queries_.rows - 1;
    return queries_.token(row < last ? row : last) + seen_;
  }
  LIGER_DEVICE void fetch(int tile) {
    if (tile < tiles_.count) {
      const int first = tiles_.position(tile);
      typename L::Keys& keys = s_.keys[tile % 2];
      L::Keys::each_item([&](int item, int row, int element) {
        if (first + row < seen_) {
          const int64_t at = ring_slot(first + row, tiles_.of_sinks(tile)) * D;
          keys.take(item, row, element, p_.ring_keys + at, p_.ring_values + at);
        } else {
          keys.fetch(item, row, element, key_source<E, D>(p_, part_, first + row - seen_));
        }
      });
    }
    close_copies();
  }
  // Rows of a tile of sinks may be none: those read another slot, and are not seen.
  LIGER_DEVICE int64_t ring_slot(int position, bool of_sinks) const {
    const int slot = of_sinks && position < sinks_ ? window_ + position : position % window_;
    return (part_.sequence * p_.Hkv + queries_.kv_head) * (p_.window + p_.sinks) + slot;
  }

  LIGER_DEVICE void use(int tile, const typename L::Keys& keys) {
    const int first = tiles_.position(tile), last = first + kKeys - 1;
    const bool of_sinks = tiles_.of_sinks(tile);
    const int upper = part_.first + row_, lower = upper + 16 * kTiles - 1;
    const Range a = seen_from(position(upper), of_sinks, window_, sinks_);
    const Range b = seen_from(position(lower), of_sinks, window_, sinks_);
    if (b.high < first || a.low >= last) return;  // none of this warp's queries sees any
    Accumulator scores[kTiles][kKeys / 8];
    multiply_rows<D>(s_.q + row_ * L::kRow, keys.rotated, scores);
    if (a.high < last || b.low >= first) hide(scores, first, of_sinks);
    make_weights(scores);
    multiply_weights<D, 1, kTiles, kKeys>(scores, keys.partner, 0, o_);
  }
  LIGER_DEVICE void hide(Accumulator (&scores)[kTiles][kKeys / 8], int first, bool of_sinks) const {
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const Range range = seen_from(position(row_of(m, half)), of_sinks, window_, sinks_);
        LIGER_UNROLL
        for (int n = 0; n < kKeys / 8; ++n)
          LIGER_UNROLL
          for (int e = 0; e < 2; ++e) {
            const int key = first + n * 8 + lane_column() + e;
            if (key <= range.low || key > range.high) scores[m][n].x[2 * half + e] = -INFINITY;
          }
      }
  }
  LIGER_DEVICE int row_of(int m, int half) const { return part_.first + row_ + m * 16 + half * 8 + lane_row(); }

  // Scores to weights, 2^(s - largest); what was summed before is scaled to the largest score now.
  LIGER_DEVICE void make_weights(Accumulator (&scores)[kTiles][kKeys / 8]) {
    const float scale = kLog2E / sqrtf(static_cast<float>(D));
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float largest = largest_[m][half];
        LIGER_UNROLL
        for (int n = 0; n < kKeys / 8; ++n)
          largest = fmaxf(largest, fmaxf(scores[m][n].x[2 * half], scores[m][n].x[2 * half + 1]));
        largest = fmaxf(largest, exchange(largest, 1));
        largest = fmaxf(largest, exchange(largest, 2));
        const float from = largest == -INFINITY ? 0 : largest * scale;  // nothing seen so far
        const float before = exp2f(largest_[m][half] * scale - from);
        float sum = 0;
        LIGER_UNROLL
        for (int n = 0; n < kKeys / 8; ++n)
          LIGER_UNROLL
          for (int e = 0; e < 2; ++e) {
            float& x = scores[m][n].x[2 * half + e];
            x = exp2f(x * scale - from);
            sum += x;
          }
        largest_[m][half] = largest;
        sum_[m][half] = sum_[m][half] * before + sum;
        LIGER_UNROLL
        for (int n = 0; n < kColumns; ++n)
          LIGER_UNROLL
          for (int e = 0; e < 2; ++e) o_[m][n].x[2 * half + e] *= before;
      }
  }

  // All of `other` is read before any of o is written, which it may be: so its loads need not wait for each other.
  LIGER_DEVICE void store() {
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float sum = sum_[m][half];
        sum += exchange(sum, 1);
        sum += exchange(sum, 2);
        const int row = row_of(m, half);
        if (p_.lse && lane_column() == 0 && row < queries_.rows)
          p_.lse[queries_.at(row)] = largest_[m][half] / sqrtf(static_cast<float>(D)) + logf(sum);
        const float scale = p_.share / sum;
        LIGER_UNROLL
        for (int n = 0; n < kColumns; ++n)
          LIGER_UNROLL
          for (int e = 0; e < 2; ++e) o_[m][n].x[2 * half + e] *= scale;
        if (p_.other && row < queries_.rows) mix(static_cast<const E*>(p_.other) + queries_.at(row) * D, m, half);
      }
    LIGER_UNROLL
    for (int m = 0; m < kTiles; ++m)
      LIGER_UNROLL
      for (int half = 0; half < 2; ++half)
        if (row_of(m, half) < queries_.rows)
          store_row(static_cast<E*>(p_.o) + queries_.at(row_of(m, half)) * D, m, half);
  }
  LIGER_DEVICE void mix(const E* other, int m, int half) {
    LIGER_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      const Pair<E> pair = load_pair(other + n * 8 + lane_column());
      o_[m][n].x[2 * half] += p_.other_share * to_float(pair.x);
      o_[m][n].x[2 * half + 1] += p_.other_share * to_float(pair.y);
    }
  }
  LIGER_DEVICE void store_row(E* o, int m, int half) const {
    LIGER_UNROLL
    for (int n = 0; n < kColumns; ++n)
      *reinterpret_cast<Pair<E>*>(o + n * 8 + lane_column()) = {rounded<E>(o_[m][n].x[2 * half]),
                                                                rounded<E>(o_[m][n].x[2 * half + 1])};
  }

  const WindowAttentionForward& p_;
  const Part part_;
  L& s_;
  const Queries queries_;
  const int seen_, window_, sinks_;
  const KeyTiles<kKeys> tiles_;
  int row_;  ///< the warp's first of the block's
  Accumulator o_[kTiles][kColumns];
  float largest_[kTiles][2], sum_[kTiles][2] = {};  ///< sums of this thread's columns alone
};

template <typename E, int D>
__global__ void __launch_bounds__(Layout<E, D>::kThreads) window_attention_fwd_kernel(const WindowAttentionForward p) {
  LIGER_SHARED(memory);
  using L = Layout<E, D>;
  const Part part = find_part(p, p.H / p.Hkv, L::kRows);
  if (part.first >= part.length * (p.H / p.Hkv)) return;
  WindowForward<E, D>(p, part, *reinterpret_cast<L*>(memory)).run();
}

}  // namespace

const char* window_attention_fwd_refuses(const WindowAttentionForward& p) {
  if (p.seen && !(p.ring_keys && p.ring_values)) return "what was seen before needs the rings it lies in";
  return window_queries_refused(p);
}

const char* window_attention_fwd(const WindowAttentionForward& p, void* stream) {
  if (const char* reason = window_attention_fwd_refuses(p)) return reason;
  if (p.sequences == 0 || p.N == 0) return nullptr;
  return for_type_and_size(p.type, p.D, [&](auto element, auto size) {
    using L = Layout<decltype(element), decltype(size)::value>;
    static_assert(sizeof(L) <= kSharedLimit, "does not fit");
    const dim3 grid(static_cast<unsigned>(parts_of(p.N, p.sequences, p.H / p.Hkv, L::kRows)),
                    static_cast<unsigned>(p.Hkv));
    return launch("window_attention_fwd", window_attention_fwd_kernel<decltype(element), decltype(size)::value>, grid,
                  L::kThreads, sizeof(L), stream, p);
  });
}

}  // namespace liger::kernels
