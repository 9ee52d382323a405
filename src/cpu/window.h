// Softmax attention over a sliding window, of one sequence and one key head with its `group` query heads:
//   o_p = sum over visible j of softmax_j(rope(q_p) . rope(k_j) / sqrt(D)) v_j
// where a query at position p sees the keys of positions p - window + 1 .. p, and those of positions 0 .. sinks - 1
// that have left the window. Tokens come in chunks of kChunk, the last one maybe shorter. A chunk's queries of all
// heads are the rows of one product with the keys that any of them sees; what one of them does not see weighs 0.
//
// Rows of q, o and their gradients are [group][kChunk][padded D], of k and v [kChunk][padded D], the padding 0; rows
// beyond a chunk's tokens are ignored, and not written. cos and sin are [tokens of the chunk][D / 2].
#pragma once

#include <utility>

#include "cpu/arena.h"
#include "cpu/gemm.h"
#include "cpu/transpose.h"

namespace liger {
namespace {

struct WindowShape {
  int64_t group, D, window, sinks;
  int64_t tokens;    ///< of this pass
  int64_t seen = 0;  ///< tokens before this pass
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// Rows of n tokens, rotated by the angles of (cos, sin), or by the opposite ones where turn is -1, and scaled.
template <typename T>
inline void rotate(int64_t n, const T* x, const float* cos, const float* sin, int64_t D, T scale, T turn, T* to) {
  const int64_t half = D / 2;
  for (int64_t i = 0; i < n; ++i, x += padded<T>(D), to += padded<T>(D), cos += half, sin += half) {
    T* __restrict low = to, * __restrict high = to + half;
    for (int64_t d = 0; d < half; ++d) {
      const T c = scale * cos[d], s = scale * turn * sin[d], a = x[d], b = x[half + d];
      low[d] = a * c - b * s;
      high[d] = b * c + a * s;
    }
  }
}

/// The slots of keys: first those of the sinks, then a ring of the latest tokens. The ring is whole chunks, at least
/// window - 1 + kChunk tokens, or all there are: nothing is visible to a chunk that it has overwritten.
struct WindowSlots {
  WindowSlots(const WindowShape& s, int64_t width, int64_t batch)
      : shape(s),
        context(smaller(s.seen, s.window - 1)),
        base(chunks(context) * kChunk),
        sinks((s.sinks + width - 1) / width * width),
        ring(smaller(chunks(s.window - 1 + kChunk), chunks(context) + chunks(s.tokens))) {
    ring = (ring + batch - 1) / batch * batch * kChunk;
    count = sinks + ring;
    if (count % (16 * width) == 0) count += width;  // else columns so far apart share few sets of the cache
  }
  static int64_t chunks(int64_t tokens) { return (tokens + kChunk - 1) / kChunk; }

  /// Of a token of this pass, or of the context where it is negative.
  int64_t slot(int64_t token) const { return sinks + (token + base) % ring; }
  /// Slots that have been used when the chunk at `first` is the latest.
  int64_t used(int64_t first) const { return sinks + smaller(ring, base + first + kChunk); }

  WindowShape shape;
  int64_t context;  ///< tokens before this pass that its queries see
  int64_t base;     ///< slot of this pass's first token in the ring
  int64_t sinks, ring;
  int64_t count;  ///< of both, and maybe a vector that stays unused
};

/// Scores [group * n][slots] of keys that their query does not see become -inf.
template <typename T>
inline void hide(const WindowSlots& slots, int64_t first, int64_t n, T* scores) {
  const WindowShape& s = slots.shape;
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  const auto fill = [](T* from, const T* to) {
    for (; from < to; ++from) *from = kHidden;
  };
  const int64_t used = slots.used(first) - slots.sinks;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t token = first + i, gone = larger(0, s.seen + token - s.window + 1);
    const int64_t end = slots.slot(first) - slots.sinks + i + 1;
    const int64_t begin = end - smaller(s.window, slots.context + token + 1);  // negative: -begin before the ring's end
    for (int64_t h = 0; h < s.group; ++h) {
      T* row = scores + (h * n + i) * slots.count;
      T* ring = row + slots.sinks;
      fill(row + smaller(gone, s.sinks), ring + larger(begin, 0));
      fill(ring + end, ring + (begin < 0 ? begin + slots.ring : used));
    }
  }
}

/// A chunk's rows [kChunk][Dp] into their slots of columns [Dp][slots], sinks into both of theirs; beyond n tokens 0.
template <typename T>
inline void place_columns(const WindowSlots& slots, int64_t first, int64_t n, int64_t Dp, const T* rows, T* columns) {
  T* at = columns + slots.slot(first);
  transpose(kChunk, Dp, rows, Dp, at, slots.count);
  const int64_t position = slots.shape.seen + first, sinks = smaller(slots.shape.sinks, position + n);
  for (int64_t d = 0; d < Dp; ++d) {
    for (int64_t i = n; i < kChunk; ++i) at[d * slots.count + i] = 0;
    for (int64_t j = larger(position, 0); j < sinks; ++j) columns[d * slots.count + j] = rows[(j - position) * Dp + d];
  }
}
/// The same into slots that are rows [slots][Dp].
template <typename T>
inline void place_rows(const WindowSlots& slots, int64_t first, int64_t n, int64_t Dp, const T* rows, T* to) {
  T* at = to + slots.slot(first) * Dp;
  store_row(rows, n * Dp, at);
  for (int64_t i = n * Dp; i < kChunk * Dp; ++i) at[i] = 0;
  const int64_t position = slots.shape.seen + first, sinks = smaller(slots.shape.sinks, position + n);
  for (int64_t j = larger(position, 0); j < sinks; ++j) store_row(rows + (j - position) * Dp, Dp, to + j * Dp);
}

inline float log(float x) { return ::logf(x); }
inline double log(double x) { return ::log(x); }
template <typename T>
inline T largest(const T* row, int64_t n) {
  Vec<T> best = load(row);
  for (int64_t s = kWidth<T>; s < n; s += kWidth<T>) best = max<T>(best, load(row + s));
  return max_lane<T>(best);
}
/// A row of scores becomes e^(score - largest); returns their sum.
template <typename T>
inline T exponentials(T* row, int64_t n, T largest) {
  Vec<T> total{};
  for (int64_t s = 0; s < n; s += kWidth<T>) {
    const Vec<T> e = exp(load(row + s) - largest);
    store(row + s, e);
    total += e;
  }
  return sum<T>(total);
}

/// What a query's window output counts in the mix, and what that count depends on: w of its log-sum-exp with a slope of
/// w (1 - w), as in sigmoid(lse - ...), where `along` is given. [group][kChunk] each.
template <typename T>
struct WindowShares {
  const T* share;  ///< w
  const T* along;  ///< grad_o . what the rest 1 - w is of; nullptr: w is a constant
  T* mean;         ///< out: grad_o . the window's output
};

/// A row of scores becomes the weights e^(score - lse), and a row of the weights' gradients, those of an output that
/// counts `share`, becomes that of the scores. Returns the mean of what came in.
template <typename T>
inline T softmax_backward(T* row, T* grad, int64_t n, T lse, T share, const T* along) {
  Vec<T> dot{}, total{};
  for (int64_t s = 0; s < n; s += kWidth<T>) {
    const Vec<T> weight = exp(load(row + s) - lse);
    store(row + s, weight);
    dot += weight * load(grad + s);
    total += weight;
  }
  const T mean = sum<T>(dot) / sum<T>(total);  // the total is not 1 where lse is large, and so rounded coarsely
  const T d_lse = along ? share * (1 - share) * (mean - *along) : T(0);
  for (int64_t s = 0; s < n; s += kWidth<T>) store(grad + s, load(row + s) * ((load(grad + s) - mean) * share + d_lse));
  return mean;
}

/// Chunks in the order of time: load_state() if tokens were seen, chunk() for each, store_state() if it is to go on.
/// The state is rotated keys and values [window + sinks][D]: position p in slot p % window, sink j also in window + j.
template <typename T>
class WindowForward {
 public:
  WindowForward(const WindowShape& s, Arena& own, Arena& shared)
      : slots_(s, kWidth<T>, /*batch=*/1),
        D_(s.D),
        Dp_(padded<T>(D_)),
        scale_(static_cast<T>(1 / std::sqrt(static_cast<double>(D_)))),
        keys_(own.take<T>(Dp_ * slots_.count)),
        values_(own.take<T>(slots_.count * Dp_)),
        rows_(shared.take<T>(kChunk * Dp_)),
        queries_(shared.take<T>(s.group * kChunk * Dp_)),
        weights_(shared.take<T>(s.group * kChunk * slots_.count)),
        out_(shared.take<T>(s.group * kChunk * Dp_)),
        largest_(shared.take<T>(s.group * kChunk)),
        sums_(shared.take<T>(s.group * kChunk)) {}

  void load_state(const T* keys, const T* values) {
    const WindowShape& s = slots_.shape;
    for (int64_t first = -slots_.base; first < 0; first += kChunk) {
      for (int64_t i = larger(0, -slots_.context - first); i < kChunk; ++i) {
        const int64_t from = (s.seen + first + i) % s.window * D_;
        load_row(keys + from, D_, rows_ + i * Dp_);
        load_row(values + from, D_, values_ + slots_.slot(first + i) * Dp_);
      }
      place_columns(slots_, first, kChunk, Dp_, rows_, keys_);
    }
    for (int64_t j = 0; j < smaller(s.sinks, s.seen); ++j) {
      for (int64_t d = 0; d < D_; ++d) keys_[d * slots_.count + j] = keys[(s.window + j) * D_ + d];
      load_row(values + (s.window + j) * D_, D_, values_ + j * Dp_);
    }
  }

  /// Tokens first .. first + n - 1 of this pass; `first` is a multiple of kChunk. Where lse is given, it becomes the
  /// log of each query's sum of exponentials, [group][kChunk], for the backward pass.
  void chunk(int64_t first, int64_t n, const T* q, const T* k, const T* v, const float* cos, const float* sin, T* o,
             T* lse = nullptr) {
    const int64_t group = slots_.shape.group, M = group * n, N = slots_.used(first), count = slots_.count;
    rotate<T>(n, k, cos, sin, D_, 1, 1, rows_);
    place_columns(slots_, first, n, Dp_, rows_, keys_);
    place_rows(slots_, first, n, Dp_, v, values_);
    for (int64_t h = 0; h < group; ++h)
      rotate<T>(n, q + h * kChunk * Dp_, cos, sin, D_, scale_, 1, queries_ + h * n * Dp_);
    product<Into::kSet, T>(M, N, D_, {queries_, Dp_, 1, keys_, count, weights_, count});
    hide(slots_, first, n, weights_);
    for (int64_t m = 0; m < M; ++m) largest_[m] = largest(weights_ + m * count, N);
    for (int64_t m = 0; m < M; ++m) sums_[m] = exponentials(weights_ + m * count, N, largest_[m]);
    product<Into::kSet, T>(M, Dp_, N, {weights_, count, 1, values_, Dp_, out_, Dp_});
    for (int64_t h = 0; h < group; ++h)
      for (int64_t i = 0; i < n; ++i) {
        const T scale = 1 / sums_[h * n + i];
        const T* from = out_ + (h * n + i) * Dp_;
        T* to = o + (h * kChunk + i) * Dp_;
        for (int64_t d = 0; d < Dp_; d += kWidth<T>) store(to + d, load(from + d) * scale);
        if (lse) lse[h * kChunk + i] = largest_[h * n + i] + log(sums_[h * n + i]);
      }
  }

  void store_state(T* keys, T* values) const {
    const WindowShape& s = slots_.shape;
    for (int64_t token = larger(0, s.tokens - s.window); token < s.tokens; ++token)
      store_slot(slots_.slot(token), (s.seen + token) % s.window, keys, values);
    for (int64_t j = s.seen; j < smaller(s.sinks, s.seen + s.tokens); ++j) store_slot(j, s.window + j, keys, values);
  }

 private:
  void store_slot(int64_t slot, int64_t to, T* keys, T* values) const {
    for (int64_t d = 0; d < D_; ++d) keys[to * D_ + d] = keys_[d * slots_.count + slot];
    store_row(values_ + slot * Dp_, D_, values + to * D_);
  }

  WindowSlots slots_;
  int64_t D_, Dp_;
  T scale_;
  T *keys_, *values_, *rows_;     // [Dp][slots], [slots][Dp], [kChunk][Dp]
  T *queries_, *weights_, *out_;  // of each query: [Dp], [slots], [Dp]
  T *largest_, *sums_;            // of its scores and their exponentials
};

/// Chunks from the last to the first, with the queries' log-sum-exp of the forward pass; no tokens may have been seen.
/// Before the first chunk(), add_keys() of the chunks that hold sinks; before chunk(first), of all chunks from the last
/// down to the one at first - reach(), each once.
///
/// So that the products that sum keys' gradients over queries are long, the queries of `batch` chunks are kept with
/// their weights and gradients, and a chunk of keys takes them up once in `batch` chunks, lastly when its own comes.
template <typename T>
class WindowBackward {
 public:
  WindowBackward(const WindowShape& s, Arena& own, Arena& shared)
      : batch_(batch(s)),
        rows_(s.group * kChunk),
        slots_(s, kWidth<T>, batch_),
        D_(s.D),
        Dp_(padded<T>(D_)),
        scale_(static_cast<T>(1 / std::sqrt(static_cast<double>(D_)))),
        key_columns_(own.take<T>(Dp_ * slots_.count)),
        value_columns_(own.take<T>(Dp_ * slots_.count)),
        key_rows_(own.take<T>(slots_.count * Dp_)),
        grad_keys_(own.take<T>(slots_.count * Dp_)),
        grad_values_(own.take<T>(slots_.count * Dp_)),
        queries_(own.take<T>(batch_ * rows_ * Dp_)),
        grad_out_(own.take<T>(batch_ * rows_ * Dp_)),
        weights_(own.take<T>(batch_ * rows_ * slots_.count)),
        grad_scores_(own.take<T>(batch_ * rows_ * slots_.count)),
        turned_(shared.take<T>(rows_ * Dp_)) {}

  int64_t reach() const { return slots_.ring - kChunk; }

  void add_keys(int64_t first, int64_t n, const T* k, const T* v, const float* cos, const float* sin) {
    rotate<T>(n, k, cos, sin, D_, 1, 1, turned_);
    place_columns(slots_, first, n, Dp_, turned_, key_columns_);
    place_rows(slots_, first, n, Dp_, turned_, key_rows_);
    place_columns(slots_, first, n, Dp_, v, value_columns_);
  }

  void chunk(int64_t first, int64_t n, const T* q, const T* grad_o, const T* lse, const WindowShares<T>& shares,
             const float* cos, const float* sin, T* dq, T* dk, T* dv) {
    add_queries(first, n, q, grad_o, lse, shares, cos, sin);
    query_gradients(first, n, cos, sin, dq);
    for (int64_t keys = first; keys >= 0 && keys > first - slots_.ring; keys -= batch_ * kChunk)
      key_gradients(slots_.slot(keys), kChunk, 0, batch_ * rows_);
    key_gradients(0, slots_.shape.sinks, in_batch(first), slots_.shape.group * n);
    finish(first, n, cos, sin, dk, dv);
  }

 private:
  // Loads and stores of its result lengthen a product over K queries by about 1 / K, and the ring grows to whole
  // batches. More than 40 queries gain nothing and leave the cache.
  static int64_t batch(const WindowShape& s) {
    const int64_t rows = s.group * kChunk, chunks = WindowSlots(s, kWidth<T>, 1).ring / kChunk;
    const auto cost = [&](int64_t batch) {
      return static_cast<double>((chunks + batch - 1) / batch * batch) * (1 + 1.0 / static_cast<double>(batch * rows));
    };
    int64_t best = 1;
    for (int64_t batch = 2; batch * rows <= 40; ++batch)
      if (cost(batch) < cost(best)) best = batch;
    return best;
  }
  int64_t in_batch(int64_t first) const { return first / kChunk % batch_ * rows_; }

  /// A chunk's queries, weights and the gradients of its output and scores into the batch.
  void add_queries(int64_t first, int64_t n, const T* q, const T* grad_o, const T* lse, const WindowShares<T>& shares,
                   const float* cos, const float* sin) {
    const int64_t at = in_batch(first), group = slots_.shape.group, M = group * n;
    const int64_t N = slots_.used(first), count = slots_.count;
    T *queries = queries_ + at * Dp_, *grad_out = grad_out_ + at * Dp_;
    T *weights = weights_ + at * count, *grad_scores = grad_scores_ + at * count;
    for (int64_t h = 0; h < group; ++h) {
      rotate<T>(n, q + h * kChunk * Dp_, cos, sin, D_, scale_, 1, queries + h * n * Dp_);
      store_row(grad_o + h * kChunk * Dp_, n * Dp_, grad_out + h * n * Dp_);
    }
    product<Into::kSet, T>(M, N, D_, {queries, Dp_, 1, key_columns_, count, weights, count});
    product<Into::kSet, T>(M, N, D_, {grad_out, Dp_, 1, value_columns_, count, grad_scores, count});
    hide(slots_, first, n, weights);
    for (int64_t h = 0; h < group; ++h)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = h * kChunk + i, m = h * n + i;
        const T share = shares.share[row];
        shares.mean[row] = softmax_backward(weights + m * count, grad_scores + m * count, N, lse[row], share,
                                            shares.along ? shares.along + row : nullptr);
        T* out = grad_out + m * Dp_;
        for (int64_t d = 0; d < Dp_; d += kWidth<T>) store(out + d, load(out + d) * share);
      }
  }

  void query_gradients(int64_t first, int64_t n, const float* cos, const float* sin, T* dq) {
    const int64_t count = slots_.count, M = slots_.shape.group * n;
    const T* grad_scores = grad_scores_ + in_batch(first) * count;
    product<Into::kSet, T>(M, Dp_, slots_.used(first), {grad_scores, count, 1, key_rows_, Dp_, turned_, Dp_});
    for (int64_t h = 0; h < slots_.shape.group; ++h)
      rotate<T>(n, turned_ + h * n * Dp_, cos, sin, D_, scale_, -1, dq + h * kChunk * Dp_);
  }

  /// What K queries of the batch add to the gradients of M slots of keys and values.
  void key_gradients(int64_t slot, int64_t M, int64_t query, int64_t K) {
    const auto add = [&](const T* A, const T* B, T* C) {
      product<Into::kAdd, T>(
          M, Dp_, K, {A + query * slots_.count + slot, 1, slots_.count, B + query * Dp_, Dp_, C + slot * Dp_, Dp_});
    };
    add(grad_scores_, queries_, grad_keys_);
    add(weights_, grad_out_, grad_values_);
  }

  /// The gradients of the chunk's keys and values are complete: out with them, and the ring's next are sums from 0.
  void finish(int64_t first, int64_t n, const float* cos, const float* sin, T* dk, T* dv) {
    T *grad_keys = grad_keys_ + slots_.slot(first) * Dp_, *grad_values = grad_values_ + slots_.slot(first) * Dp_;
    const int64_t sinks = smaller(slots_.shape.sinks - first, n);
    for (int64_t i = 0; i < sinks * Dp_; ++i) {
      grad_keys[i] += grad_keys_[first * Dp_ + i];
      grad_values[i] += grad_values_[first * Dp_ + i];
    }
    rotate<T>(n, grad_keys, cos, sin, D_, 1, -1, dk);
    store_row(grad_values, n * Dp_, dv);
    for (int64_t i = 0; i < n * Dp_; ++i) grad_keys[i] = grad_values[i] = 0;
  }

  int64_t batch_;  // chunks
  int64_t rows_;   // queries of a chunk
  WindowSlots slots_;
  int64_t D_, Dp_;
  T scale_;
  T *key_columns_, *value_columns_;          // [Dp][slots]
  T *key_rows_, *grad_keys_, *grad_values_;  // [slots][Dp]
  // Not shared between heads: of a short last chunk the rest of its rows stays zero, and counts as queries.
  T *queries_, *grad_out_;     // [batch][rows][Dp]
  T *weights_, *grad_scores_;  // [batch][rows][slots]
  T* turned_;                  // [rows][Dp]
};

}  // namespace
}  // namespace liger
