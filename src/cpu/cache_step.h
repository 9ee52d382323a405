// One token's softmax attention over a cache of keys and values, of one sequence and key/value head. The softmax runs
// in blocks of keys with a maximum that grows as they come, so that no row of scores as long as the text is needed.
#pragma once

#include "cpu/kernels.h"
#include "cpu/linear.h"
#include "cpu/window.h"

namespace liger {
namespace {

inline constexpr int64_t kCacheBlock = 64;

template <typename E>
class CacheStep {
 public:
  CacheStep(const CacheHead& head, Arena& arena)
      : head_(head),
        key_(arena.take<float>(padded<float>(head.D))),
        q_(arena.take<float>(padded<float>(head.D))),
        o_(arena.take<float>(padded<float>(head.D))),
        scores_(arena.take<float>(kCacheBlock)) {}

  void run() {
    const int64_t D = head_.D;
    E *keys = static_cast<E*>(head_.keys), *values = static_cast<E*>(head_.values);
    rotate<float>(1, head_.k, head_.cos, head_.sin, D, 1, 1, key_);
    store_row(key_, D, keys + head_.seen * head_.stride);
    store_row(head_.v, D, values + head_.seen * head_.stride);
    for (int64_t h = 0; h < head_.group; ++h) {
      rotate<float>(1, head_.q + h * D, head_.cos, head_.sin, D, 1 / std::sqrt(static_cast<float>(D)), 1, q_);
      for (int64_t d = D; d < padded<float>(D); ++d) q_[d] = 0;
      attend(keys, values);
      store_row(o_, D, head_.o + h * D);
    }
  }

 private:
  void attend(const E* keys, const E* values) {
    const int64_t D = head_.D, Dp = padded<float>(D), n = head_.seen + 1;
    std::memset(o_, 0, sizeof(float) * static_cast<size_t>(Dp));
    float best = -std::numeric_limits<float>::infinity(), total = 0;
    for (int64_t first = 0; first < n; first += kCacheBlock) {
      const int64_t count = smaller(kCacheBlock, n - first);
      float now = best;
      for (int64_t j = 0; j < kCacheBlock; ++j) {
        scores_[j] = j < count ? score(keys + (first + j) * head_.stride) : -std::numeric_limits<float>::infinity();
        now = scores_[j] > now ? scores_[j] : now;
      }
      const float shrink = best == now ? 1.0f : exp(splat(best - now))[0];
      best = now;
      for (int64_t d = 0; d < Dp; d += kWidth<float>) store(o_ + d, load(o_ + d) * shrink);
      Vec<float> sums = {};
      for (int64_t j = 0; j < kCacheBlock; j += kWidth<float>) {
        const Vec<float> weights = exp(load(scores_ + j) - best);
        store(scores_ + j, weights);
        sums += weights;
      }
      total = total * shrink + sum<float>(sums);
      for (int64_t j = 0; j < count; ++j) add_value(scores_[j], values + (first + j) * head_.stride);
    }
    for (int64_t d = 0; d < Dp; d += kWidth<float>) store(o_ + d, load(o_ + d) * (1 / total));
  }

  float score(const E* key) {
    if constexpr (sizeof(E) == sizeof(float)) return dot(q_, key, head_.D);
    load_row(key, head_.D, key_);
    return dot(q_, key_, padded<float>(head_.D));
  }
  void add_value(float weight, const E* value) {
    load_row(value, head_.D, key_);
    for (int64_t d = 0; d < padded<float>(head_.D); d += kWidth<float>)
      store(o_ + d, load(o_ + d) + weight * load(key_ + d));
  }

  CacheHead head_;
  float *key_, *q_, *o_, *scores_;
};

}  // namespace
}  // namespace liger
