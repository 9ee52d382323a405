// One token of each sequence through a token mixer that chose what the paper's do not have. Memory is the limit, as in
// decode_step.cu: a state is read once (again for each further four query heads to a key) and written once.
//
// A block of threads has one key/value head of one sequence, all of its columns, as each needs the state's sum of keys:
// few sequences of few heads leave much of a large GPU idle. A warp has whole rows at a time, of the state or of the
// window's values, lane l their columns l, l + 32, ...: rows of D + 1 columns are not aligned to more than 4 bytes.
// What the window and the state give is added up apart, as the state's sum of keys decides how much of each is taken.

#include "decode_choices.h"
#include "decode_parts.cuh"

namespace liger::kernels {
namespace choices {
namespace {

using decode::kHeads;
using decode::kThreads;
using decode::kWarps;
using decode::load_row;
using decode::product;
using decode::Row;
using decode::store_element;
using decode::store_row;

constexpr float kLargestExponent = 20;  // as in liger/core/structure.h

enum Scalar { kWindowWeight, kLinearWeight, kQueryScale, kKeyScale, kLogGate };  // as in liger/core/head_scalars.h

/// Where things lie in shared memory, in floats.
struct Layout {
  int features;     ///< of a query or key: D or 2 D
  int columns;      ///< of the state: D or D + 1
  int all_keys;     ///< that may be seen
  int rotated;      ///< [group, D]: the queries, scaled
  int queries;      ///< [group, features]
  int key;          ///< [features]
  int decay;        ///< [D]
  int value;        ///< [columns]
  int partial;      ///< [kWarps, kHeads, columns]
  int linear;       ///< [kHeads, columns]
  int log_sum;      ///< [group]: of the window's exponentials
  int weights;      ///< [group, all_keys]
  int64_t total;
};
Layout lay_out(const DecodeChoices& p) {
  Layout at = {};
  const auto take = [&](int64_t n) {
    const int64_t here = at.total;
    at.total += (n + 3) / 4 * 4;
    return static_cast<int>(here);
  };
  const int64_t D = p.D, group = p.H / p.Hkv;
  at.features = static_cast<int>(p.two_features == TwoFeatures::kNone ? D : 2 * D);
  at.columns = static_cast<int>(p.divisor == Divisor::kNone ? D : D + 1);
  at.all_keys = static_cast<int>(p.window + p.sinks);
  at.rotated = take(p.window > 0 ? group * D : 0);
  at.queries = take(group * at.features);
  at.key = take(at.features);
  at.decay = take(D);
  at.value = take(at.columns);
  at.partial = take(static_cast<int64_t>(kWarps) * kHeads * at.columns);
  at.linear = take(static_cast<int64_t>(kHeads) * at.columns);
  at.log_sum = take(group);
  at.weights = take(group * at.all_keys);
  return at;
}

struct Job {
  DecodeChoices p;
  Layout at;
};

template <int D>
class Step {
  static constexpr int kOf = D / 32;                      // columns that a lane has of a row
  static constexpr int kRowsAtOnce = D == 256 ? 2 : 4;    // that a warp has in registers

 public:
  LIGER_DEVICE Step(const Job& job, float* shared) : p_(job.p), at_(job.at), shared_(shared) {
    sequence_ = blockIdx.z;
    kv_head_ = blockIdx.y;
    group_ = static_cast<int>(p_.H / p_.Hkv);
    warp_ = static_cast<int>(threadIdx.x) / 32;
    seen_ = p_.window > 0 ? p_.seen[sequence_] : 0;
    enters_ = !p_.beyond_window || seen_ - p_.window >= p_.sinks;
    const int64_t gone = seen_ - p_.window + 1;
    recent_ = static_cast<int>(gone > 0 ? p_.window : seen_ + 1);
    count_ = p_.window == 0 ? 0 : recent_ + static_cast<int>(gone <= 0 ? 0 : gone < p_.sinks ? gone : p_.sinks);
  }

  LIGER_DEVICE void run() {
    for (int job = warp_; job < group_ + 2; job += kWarps) {
      if (job < group_) {
        prepare_query(job);
      } else if (job == group_) {
        prepare_key();
      } else {
        prepare_value();
      }
    }
    __syncthreads();
    if (p_.window > 0) attend();
    for (int head = 0; head < group_; head += kHeads) {
      read_state(head, head + kHeads >= group_);
      add_up(head, at_.columns, [&](int h, int c, float total) { linear(h)[c] = total; });
      read_window(head);
      add_up(head, D, [&](int h, int c, float total) { store_output(head + h, c, total, linear(h)); });
    }
  }

 private:
  LIGER_DEVICE int64_t query_head(int h) const { return kv_head_ * group_ + h; }
  LIGER_DEVICE float of_query(Scalar which, int h, float otherwise) const {
    return p_.scalars ? p_.scalars[which * p_.H + query_head(h)] : otherwise;
  }
  LIGER_DEVICE float of_key(Scalar which, float otherwise) const {
    return p_.scalars ? p_.scalars[which * p_.H + kv_head_] : otherwise;
  }
  LIGER_DEVICE float* linear(int h) const { return shared_ + at_.linear + h * at_.columns; }
  LIGER_DEVICE float* weights(int h) const { return shared_ + at_.weights + h * at_.all_keys; }
  LIGER_DEVICE float* slot(float* ring, int64_t slot) const {
    return ring + ((sequence_ * p_.Hkv + kv_head_) * (p_.window + p_.sinks) + slot) * D;
  }
  // Where the token's own goes; until then there is that of the token that leaves the window.
  LIGER_DEVICE float* newest(float* ring) const { return slot(ring, seen_ % p_.window); }

  // --- What the token brings ---

  LIGER_DEVICE void rotate(const Row<D>& x, float scale, Row<D>& out) const {
    decode::rotate_row(p_.cos + sequence_ * (D / 2), p_.sin + sequence_ * (D / 2), x, scale, out);
  }
  // Of x * scale, to shared memory.
  LIGER_DEVICE void store_feature(Map map, Row<D>& x, float scale, float* to) const {
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c) x[c] *= scale;
    if (p_.two_features == TwoFeatures::kNone) {
      make_feature(map, x);
      store_row(x, to);
      return;
    }
    const bool softmax = p_.two_features == TwoFeatures::kSoftmax;
    float largest = 0;
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c) largest = fmaxf(largest, fabsf(x[c]));
    largest = softmax ? max_over_warp(largest) : 0;
    Row<D> negative;
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c) {
      const float held = softmax ? x[c] : fminf(fmaxf(x[c], -kLargestExponent), kLargestExponent);
      x[c] = expf(held - largest);
      negative[c] = expf(-held - largest);
    }
    const float factor = softmax ? 1 / (sum_of_row(x) + sum_of_row(negative)) : 1;
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c) x[c] *= factor, negative[c] *= factor;
    store_row(x, to);
    store_row(negative, to + D);
  }
  LIGER_DEVICE void remember(const Row<D>& x, float* ring) const {
    store_row(x, newest(ring));
    if (seen_ < p_.sinks) store_row(x, slot(ring, p_.window + seen_));
  }

  LIGER_DEVICE void prepare_query(int h) const {
    Row<D> q, rotated;
    load_row(p_.type, p_.q, sequence_ * p_.H + query_head(h), q);
    if (p_.window > 0) {
      rotate(q, 1 / sqrtf(static_cast<float>(D)), rotated);
      store_row(rotated, shared_ + at_.rotated + h * D);
    }
    if (p_.rotates_features) {
      rotate(q, 1, rotated);
      LIGER_UNROLL
      for (int c = 0; c < kOf; ++c) q[c] = rotated[c];
    }
    store_feature(p_.features.query, q, of_query(kQueryScale, h, 1), shared_ + at_.queries + h * at_.features);
  }
  LIGER_DEVICE void prepare_key() const {
    Row<D> k, rotated = {}, gate, source;
    load_row(p_.type, p_.k, sequence_ * p_.Hkv + kv_head_, k);
    if (p_.window > 0 || p_.rotates_features) rotate(k, 1, rotated);
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c) {
      const int i = lane() + 32 * c;
      gate[c] = p_.beyond_window ? newest(p_.ring_raw_keys)[i] : k[c];
      source[c] = !p_.rotates_features ? gate[c] : p_.beyond_window ? newest(p_.ring_keys)[i] : rotated[c];
    }
    if (p_.window > 0) remember(rotated, p_.ring_keys);
    if (p_.beyond_window) remember(k, p_.ring_raw_keys);
    store_decay(gate);
    if (!enters_) {
      LIGER_UNROLL
      for (int c = 0; c < kOf; ++c) source[c] = 0;  // what lies there may be anything
    }
    float* to = shared_ + at_.key;
    store_feature(p_.features.key, source, of_key(kKeyScale, 1), to);
    if (!enters_)
      for (int i = lane(); i < at_.features; i += 32) to[i] = 0;
  }
  LIGER_DEVICE void store_decay(const Row<D>& gate) const {
    const float mean = p_.features.per_channel ? 0 : sum_of_row(gate) / D, factor = expf(of_key(kLogGate, 0));
    Row<D> a;
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c) {
      const float g = factor * log_decay(p_.features, p_.features.per_channel ? gate[c] : mean, kv_head_);
      a[c] = enters_ ? expf(g) : 1;
    }
    store_row(a, shared_ + at_.decay);
  }
  LIGER_DEVICE void prepare_value() const {
    Row<D> v, entering;
    load_row(p_.type, p_.v, sequence_ * p_.Hkv + kv_head_, v);
    LIGER_UNROLL
    for (int c = 0; c < kOf; ++c)
      entering[c] = !enters_ ? 0 : p_.beyond_window ? newest(p_.ring_values)[lane() + 32 * c] : v[c];
    if (p_.window > 0) remember(v, p_.ring_values);
    float* to = shared_ + at_.value;
    store_row(entering, to);
    if (at_.columns > D && lane() == 0) to[D] = 1;
  }

  // --- The window ---

  // In whatever order the ring has them: the latest, then the sinks that have left the window.
  LIGER_DEVICE int64_t slot_of(int key) const { return key < recent_ ? key : p_.window + key - recent_; }

  LIGER_DEVICE void attend() const {
    for (int key = warp_; key < count_; key += kWarps) {
      Row<D> k, q;
      const float* from = slot(p_.ring_keys, slot_of(key));
      LIGER_UNROLL
      for (int c = 0; c < kOf; ++c) k[c] = from[lane() + 32 * c];
      for (int h = 0; h < group_; ++h) {
        LIGER_UNROLL
        for (int c = 0; c < kOf; ++c) q[c] = shared_[at_.rotated + h * D + lane() + 32 * c];
        const float score = product(q, k);
        if (lane() == 0) weights(h)[key] = score;
      }
    }
    __syncthreads();
    for (int h = warp_; h < group_; h += kWarps) weigh(h);
    __syncthreads();
  }
  // A head's scores to weights, by one warp.
  LIGER_DEVICE void weigh(int h) const {
    float* w = weights(h);
    float largest = -INFINITY, total = 0;
    for (int key = lane(); key < count_; key += 32) largest = fmaxf(largest, w[key]);
    largest = max_over_warp(largest);
    for (int key = lane(); key < count_; key += 32) {
      w[key] = expf(w[key] - largest);
      total += w[key];
    }
    total = sum_over_warp(total);
    for (int key = lane(); key < count_; key += 32) w[key] /= total;
    if (lane() == 0) shared_[at_.log_sum + h] = largest + logf(total);
  }

  // --- Sums over rows ---

  struct Sums {
    float of[kHeads][kOf + 1] = {};  // the last: column D, lane 0's
  };
  LIGER_DEVICE bool has(int c) const { return c < kOf || (at_.columns > D && lane() == 0); }

  // S <- diag(a) S + k v^T, stored by the last to read it; what the queries of kHeads heads see of it.
  LIGER_DEVICE void read_state(int head, bool stores) const {
    float* state = p_.state + (sequence_ * p_.Hkv + kv_head_) * at_.features * at_.columns;
    const float *key = shared_ + at_.key, *decay = shared_ + at_.decay, *value = shared_ + at_.value;
    float v[kOf + 1];
    LIGER_UNROLL
    for (int c = 0; c <= kOf; ++c) v[c] = has(c) ? value[lane() + 32 * c] : 0;
    Sums sums;
    LIGER_ROLLED
    for (int first = warp_ * kRowsAtOnce; first < at_.features; first += kWarps * kRowsAtOnce) {
      float S[kRowsAtOnce][kOf + 1];
      LIGER_UNROLL
      for (int r = 0; r < kRowsAtOnce; ++r)
        LIGER_UNROLL
        for (int c = 0; c <= kOf; ++c)
          S[r][c] = has(c) ? state[static_cast<int64_t>(first + r) * at_.columns + lane() + 32 * c] : 0;
      LIGER_UNROLL
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const int row = first + r;
        const float a = decay[row % D], k = key[row];
        float x[kHeads];
        LIGER_UNROLL
        for (int h = 0; h < kHeads; ++h)
          x[h] = head + h < group_ ? shared_[at_.queries + (head + h) * at_.features + row] : 0;
        LIGER_UNROLL
        for (int c = 0; c <= kOf; ++c) {
          const float after = a * S[r][c] + k * v[c];
          if (stores && has(c)) state[static_cast<int64_t>(row) * at_.columns + lane() + 32 * c] = after;
          LIGER_UNROLL
          for (int h = 0; h < kHeads; ++h) sums.of[h][c] += x[h] * after;
        }
      }
    }
    store_sums(sums, at_.columns);
  }
  LIGER_DEVICE void read_window(int head) const {
    Sums sums;
    for (int key = warp_; key < count_; key += kWarps) {
      const float* from = slot(p_.ring_values, slot_of(key));
      float w[kHeads];
      LIGER_UNROLL
      for (int h = 0; h < kHeads; ++h) w[h] = head + h < group_ ? weights(head + h)[key] : 0;
      LIGER_UNROLL
      for (int c = 0; c < kOf; ++c) {
        const float v = from[lane() + 32 * c];
        LIGER_UNROLL
        for (int h = 0; h < kHeads; ++h) sums.of[h][c] += w[h] * v;
      }
    }
    store_sums(sums, D);
  }
  LIGER_DEVICE void store_sums(const Sums& sums, int columns) const {
    LIGER_UNROLL
    for (int h = 0; h < kHeads; ++h)
      LIGER_UNROLL
      for (int c = 0; c <= kOf; ++c)
        if (lane() + 32 * c < columns)
          shared_[at_.partial + (warp_ * kHeads + h) * columns + lane() + 32 * c] = sums.of[h][c];
  }
  // Body(one of kHeads heads, column, sum over the warps) for those of them that there are.
  template <typename Body>
  LIGER_DEVICE void add_up(int head, int columns, const Body& body) const {
    __syncthreads();
    const int heads = group_ - head < kHeads ? group_ - head : kHeads;
    for (int i = static_cast<int>(threadIdx.x); i < heads * columns; i += kThreads) {
      float total = 0;
      LIGER_UNROLL
      for (int w = 0; w < kWarps; ++w) total += shared_[at_.partial + w * kHeads * columns + i];
      body(i / columns, i % columns, total);
    }
    __syncthreads();
  }

  // The mix of a column: what the window gives, and the sums that the state gives.
  LIGER_DEVICE void store_output(int h, int c, float window, const float* sums) const {
    const bool shares = p_.divisor == Divisor::kShared;
    const float mass = at_.columns > D ? sums[D] : 1;
    float of_state = sums[c], share = of_query(kWindowWeight, h, p_.share);
    float rest = of_query(kLinearWeight, h, shares ? 0 : 1 - p_.share);
    if (p_.divisor == Divisor::kAtLeastOne) of_state /= fmaxf(fabsf(mass), 1);
    if (shares || p_.divisor == Divisor::kOwn) of_state = mass > 0 ? of_state / mass : 0;
    if (shares) {
      share = mass > 0 ? 1 / (1 + expf(rest + logf(mass) - shared_[at_.log_sum + h])) : 1;
      rest = 1 - share;
    }
    const float out = p_.window == 0 ? of_state : share * window + rest * of_state;
    store_element(p_.type, out, p_.o, (sequence_ * p_.H + query_head(h)) * D + c);
  }

  const DecodeChoices& p_;
  const Layout& at_;
  float* shared_;
  int64_t sequence_, kv_head_, seen_;
  int group_, warp_;
  bool enters_;  ///< there is a token for the state
  int recent_;   ///< keys of the window
  int count_;    ///< with the sinks
};

template <int D>
__global__ void __launch_bounds__(kThreads, 2) decode_choices_kernel(const Job job) {
  LIGER_SHARED(memory);
  Step<D>(job, reinterpret_cast<float*>(memory)).run();
}

template <int D>
const char* run(const DecodeChoices& p, void* stream) {
  const Job job = {p, lay_out(p)};
  const dim3 grid(1, static_cast<unsigned>(p.Hkv), static_cast<unsigned>(p.sequences));
  return launch("decode_choices", decode_choices_kernel<D>, grid, kThreads,
                static_cast<size_t>(job.at.total) * sizeof(float), stream, job);
}

}  // namespace
}  // namespace choices

const char* decode_choices_refuses(const DecodeChoices& p) {
  if (p.D != 64 && p.D != 128 && p.D != 256) return "the size of a head must be 64, 128 or 256";
  if (p.Hkv < 1 || p.H < 1 || p.H % p.Hkv != 0) return "query heads must be a multiple of key/value heads";
  if (p.Hkv > 65535 || p.sequences > 65535) return "at most 65535 key/value heads and sequences";
  if (p.window < 0 || p.sinks < 0) return "a window and its sinks have no negative sizes";
  if (p.window == 0 && (p.beyond_window || p.divisor == Divisor::kShared)) return "there is no window to share with";
  if (p.H / p.Hkv > 1024 || p.window + p.sinks > (1 << 20) || choices::lay_out(p).total * 4 > kSharedLimit)
    return "the window's scores do not fit into shared memory";
  return nullptr;
}

const char* decode_choices(const DecodeChoices& p, void* stream) {
  if (const char* reason = decode_choices_refuses(p)) return reason;
  if (p.sequences == 0) return nullptr;
  switch (p.D) {
    case 64: return choices::run<64>(p, stream);
    case 128: return choices::run<128>(p, stream);
    default: return choices::run<256>(p, stream);
  }
}

}  // namespace liger::kernels
