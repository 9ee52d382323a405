// The window branch of the decoding step: softmax attention of one token's query heads over the keys of a ring.
//
// The keys before the token's are numbered: the latest by age, then the sinks that have left the window. All slices of
// a head score all keys, and read the values of their own columns. The token's own key and value come from shared
// memory.
#pragma once

#include "decode_parts.cuh"

namespace liger::kernels::decode {

template <int D, int C, bool kSingly>
class Window {
  using P = Place<C, kSingly>;
  static constexpr int kPieces = D / 32;                 ///< of 16 bytes: the part of a key that one of 8 threads has
  static constexpr int kKeys = 8 / kPieces;              ///< keys of which a thread has a part at once
  static constexpr int kKeysAtOnce = kKeyFloats / D;

 public:
  LIGER_DEVICE Window(const Job& job, float* shared) : p_(job.p), at_(job.at), shared_(shared) {
    if (p_.window == 0) return;
    sequence_ = blockIdx.z;
    head_ = sequence_ * p_.Hkv + blockIdx.y;
    const int64_t seen = p_.seen[sequence_], gone = seen - p_.window + 1;
    latest_ = static_cast<int>(gone >= 0 ? p_.window - 1 : seen);
    oldest_ = static_cast<int>((seen - latest_) % p_.window);
    count_ = latest_ + static_cast<int>(gone <= 0 ? 0 : gone < p_.sinks ? gone : p_.sinks);
  }

  /// Asks for the first keys and values.
  LIGER_DEVICE void begin(int column) {
    fetch_keys(0);
    fetch_values(column, 0);
  }

  LIGER_DEVICE void rotate(const Row<D>& x, float scale, Row<D>& out) const {
    rotate_row(p_.cos + sequence_ * (D / 2), p_.sin + sequence_ * (D / 2), x, scale, out);
  }
  LIGER_DEVICE void prepare_query(const Row<D>& q, int h) const {
    Row<D> rotated;
    rotate(q, 1 / sqrtf(static_cast<float>(D)), rotated);
    store_row(rotated, shared_ + at_.rotated + h * D);
  }
  LIGER_DEVICE void prepare_key(const Row<D>& k) const {
    Row<D> rotated;
    rotate(k, 1, rotated);
    store_row(rotated, shared_ + at_.rotated + at_.heads * D);
    remember(rotated, p_.ring_keys);
  }
  LIGER_DEVICE void prepare_value(const Row<D>& v) const { remember(v, p_.ring_values); }

  /// Weights of all keys. After all threads' prepare_...
  LIGER_DEVICE void attend(float share) {
    for (int first = 0; first < count_; first += kKeysAtOnce) {
      if (first == 0) {
        wait_for_copies<1>();  // a thread scores what it has copied itself; the values may be under way
      } else {
        fetch_keys(first);
        wait_for_copies<0>();
      }
      for (int head = 0; head < at_.heads; head += kHeads) score(first, head);
    }
    __syncthreads();
    const int group = static_cast<int>(p_.H / p_.Hkv);
    for (int h = static_cast<int>(threadIdx.x) / 32; h < group; h += kWarps) weigh(h, share);
    __syncthreads();
  }
  /// Adds the weighed values of the keys before the token's, of which the first have been asked for.
  LIGER_DEVICE void add_values(int column, int head, Sums& sums) const {
    for (int first = 0; first < count_; first += kValueRows) {
      if (first > 0) {
        __syncthreads();  // until all have read what lies there
        fetch_values(column, first);
      }
      wait_for_copies<0>();
      __syncthreads();
      LIGER_UNROLL
      for (int m = 0; m < kValueRows; m += P::kRows) {
        const int row = m + P::row(), key = first + row;
        if (key >= count_) continue;
        const Quad weight = load_quad(weights(head) + key * 4);
        const Quad value = P::get(shared_ + at_.values + row * C);
        LIGER_UNROLL
        for (int h = 0; h < kHeads; ++h) add(weight.x[h], value, sums.of[h]);
      }
    }
  }
  /// Asks for the first values of the next add_values(), of the same column or that of the next tile. Behind a barrier.
  LIGER_DEVICE void next_values(int column, bool next_tile) const {
    if (next_tile) {
      fetch_values(column + C, 0);
    } else if (count_ > kValueRows) {
      fetch_values(column, 0);
    }
  }

 private:
  LIGER_DEVICE float* weights(int h) const {
    return shared_ + at_.weights + h / kHeads * at_.all_keys * kHeads + h % kHeads;
  }
  LIGER_DEVICE float* of_head(float* ring) const { return ring + head_ * (p_.window + p_.sinks) * D; }
  LIGER_DEVICE int64_t slot(int key) const {
    const int window = static_cast<int>(p_.window);
    if (key >= latest_) return window + key - latest_;
    return oldest_ + key < window ? oldest_ + key : oldest_ + key - window;
  }
  // All slices read the ring, one writes it: slots that none reads now.
  LIGER_DEVICE void remember(const Row<D>& x, float* ring) const {
    if (blockIdx.x != 0) return;
    const int64_t seen = p_.seen[sequence_];
    store_row(x, of_head(ring) + seen % p_.window * D);
    if (seen < p_.sinks) store_row(x, of_head(ring) + (p_.window + seen) * D);
  }

  // Eight threads have a key: the m-th of a thread's, and where its piece of it begins.
  static LIGER_DEVICE int key_of(int m) { return m * (kThreads / 8) + static_cast<int>(threadIdx.x) / 8; }
  static LIGER_DEVICE int piece() { return lane() % 8 * 4; }

  LIGER_DEVICE void fetch_keys(int first) const {
    LIGER_UNROLL
    for (int m = 0; m < kKeys; ++m) {
      const int key = first + key_of(m);
      if (key >= count_) continue;
      LIGER_UNROLL
      for (int i = 0; i < kPieces; ++i)
        copy_async(shared_ + at_.keys + key_of(m) * D + piece() + i * 32,
                   of_head(p_.ring_keys) + slot(key) * D + piece() + i * 32, true);
    }
    close_copies();
  }
  LIGER_DEVICE void fetch_values(int column, int first) const {
    const int place = P::place() * 4;
    LIGER_UNROLL
    for (int m = 0; m < kValueRows; m += P::kRows) {
      const int row = m + P::row(), key = first + row;
      if (key >= count_) continue;
      copy_async(shared_ + at_.values + row * C + place, of_head(p_.ring_values) + slot(key) * D + column + place,
                 true);
    }
    close_copies();
  }
  LIGER_DEVICE void score(int first, int head) const {
    const float* q = shared_ + at_.rotated + head * D + piece();
    Quad score[kKeys];
    LIGER_ROLLED  // all pieces at once would not leave registers for the state
    for (int i = 0; i < kPieces; ++i) {
      Quad k[kKeys];
      LIGER_UNROLL
      for (int m = 0; m < kKeys; ++m)
        if (first + key_of(m) < count_) k[m] = load_quad(shared_ + at_.keys + key_of(m) * D + piece() + i * 32);
      LIGER_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const Quad part = load_quad(q + h * D + i * 32);
        LIGER_UNROLL
        for (int m = 0; m < kKeys; ++m)
          LIGER_UNROLL
          for (int j = 0; j < 4; ++j) score[m].x[h] += part.x[j] * k[m].x[j];
      }
    }
    LIGER_UNROLL
    for (int m = 0; m < kKeys; ++m) {
      const int key = first + key_of(m);
      const float sum = sum_of_pieces(score[m]);
      if (lane() % 2 == 0 && key < count_) weights(head + lane() % 8 / 2)[key * 4] = sum;
    }
  }
  // Sums over eight threads, a pair of them having each in the end: threads give away what others will have.
  static LIGER_DEVICE float sum_of_pieces(const Quad& x) {
    static_assert(kHeads == 4, "four sums for four pairs");
    const bool upper = lane() & 4, odd = lane() & 2;
    const float a = (upper ? x.x[2] : x.x[0]) + exchange(upper ? x.x[0] : x.x[2], 4);
    const float b = (upper ? x.x[3] : x.x[1]) + exchange(upper ? x.x[1] : x.x[3], 4);
    const float sum = (odd ? b : a) + exchange(odd ? a : b, 2);
    return sum + exchange(sum, 1);
  }
  // A head's scores to weights, by one warp.
  LIGER_DEVICE void weigh(int h, float share) const {
    const float *q = shared_ + at_.rotated + h * D, *k = shared_ + at_.rotated + at_.heads * D;
    float own = 0;
    for (int d = lane(); d < D; d += 32) own += q[d] * k[d];
    own = sum_over_warp(own);
    float* weights = this->weights(h);
    float largest = own, total = 0;
    for (int key = lane(); key < count_; key += 32) largest = fmaxf(largest, weights[key * 4]);
    largest = max_over_warp(largest);
    for (int key = lane(); key < count_; key += 32) {
      const float x = expf(weights[key * 4] - largest);
      weights[key * 4] = x;
      total += x;
    }
    own = expf(own - largest);
    const float scale = share / (sum_over_warp(total) + own);
    for (int key = lane(); key < count_; key += 32) weights[key * 4] *= scale;
    if (lane() == 0) shared_[at_.of_token + h] = own * scale;
  }

  const DecodeStep& p_;
  const Layout& at_;
  float* shared_;
  int64_t sequence_ = 0, head_ = 0;
  int latest_ = 0;  ///< keys of the window before the token's
  int oldest_ = 0;  ///< the slot of the first of them
  int count_ = 0;   ///< with the sinks
};

}  // namespace liger::kernels::decode
