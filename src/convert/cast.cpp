#include "convert/cast.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "liger/error.h"

namespace liger {
namespace {

// Every conversion is a load into float32 and a store out of it, over blocks that stay in the first-level cache.
// All of it is inlined into cast_blocks, and that once more into a function compiled for AVX2.
#define LIGER_INLINE [[gnu::always_inline]] inline
constexpr int64_t kBlock = 2048;

constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;

// condition ? a : b by masks: with a floating-point operation behind it, `?:` becomes a branch, and the loop around it
// is no vector code any more.
LIGER_INLINE uint32_t select(bool condition, uint32_t a, uint32_t b) {
  const uint32_t mask = 0u - uint32_t{condition};
  return (a & mask) | (b & ~mask);
}

LIGER_INLINE float f32_from_bf16(uint16_t h) { return std::bit_cast<float>(uint32_t{h} << 16); }

LIGER_INLINE uint16_t bf16_from_f32(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(select((u & kMagnitude) > kInfinity, 0x7fc0, rounded));
}

LIGER_INLINE float f32_from_f16(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t shifted = uint32_t{h & 0x7fffu} << 13;  // exponent still biased by 15 instead of 127
  const uint32_t normal = shifted + ((127u - 15u) << 23);
  const uint32_t special = shifted + ((255u - 31u) << 23);  // infinity, NaN
  // A subnormal m * 2^-24 has the bits of (1 + m / 1024) * 2^-14, less 2^-14.
  constexpr uint32_t kSmallest = 113u << 23;  // 2^-14
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(shifted + kSmallest) - std::bit_cast<float>(kSmallest));
  const uint32_t finite = select(shifted < (1u << 23), subnormal, normal);
  return std::bit_cast<float>(sign | select(shifted < (31u << 23), finite, special));
}

LIGER_INLINE uint16_t f16_from_f32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000, u = bits & kMagnitude;
  const uint32_t normal = (u - ((127u - 15u) << 23) + 0xfff + ((u >> 13) & 1)) >> 13;
  // Beside 0.5 the unit in the last place is 2^-24, a subnormal's unit: the addition rounds for us.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(u) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  const uint32_t finite = select(u < (113u << 23), subnormal, normal);
  const uint32_t special = select(u > kInfinity, 0x7e00, 0x7c00);
  return static_cast<uint16_t>(sign | select(u < (143u << 23), finite, special));
}

// Float32 magnitudes from this on become infinite.
uint32_t overflow_of(Dtype to) {
  switch (to) {
    case Dtype::kF16: return 0x477ff000;
    case Dtype::kBF16: return 0x7f7f8000;
    default: return kInfinity;
  }
}

LIGER_INLINE int64_t count_overflows(const float* x, int64_t n, uint32_t limit) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t u = std::bit_cast<uint32_t>(x[i]) & kMagnitude;
    count += static_cast<int32_t>((u >= limit) & (u < kInfinity));
  }
  return count;
}

template <typename From, typename To, To (*kConvert)(From)>
LIGER_INLINE void convert_all(const void* in, void* out, int64_t n) {
  const From* from = static_cast<const From*>(in);
  To* to = static_cast<To*>(out);
  for (int64_t i = 0; i < n; ++i) to[i] = kConvert(from[i]);
}

LIGER_INLINE float f32_from_f64(double x) { return static_cast<float>(x); }

LIGER_INLINE int64_t load(Dtype from, const std::byte* in, float* out, int64_t n) {
  switch (from) {
    case Dtype::kF32: std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float)); return 0;
    case Dtype::kBF16: convert_all<uint16_t, float, f32_from_bf16>(in, out, n); return 0;
    case Dtype::kF16: convert_all<uint16_t, float, f32_from_f16>(in, out, n); return 0;
    case Dtype::kF64: break;
    default: fail(ErrorCode::kInternal, "cannot cast from ", to_string(from));
  }
  convert_all<double, float, f32_from_f64>(in, out, n);
  const double* wide = reinterpret_cast<const double*>(in);
  int64_t overflows = 0;
  for (int64_t i = 0; i < n; ++i) overflows += int64_t{std::isinf(out[i])} - int64_t{std::isinf(wide[i])};
  return overflows;
}

LIGER_INLINE void store(Dtype to, const float* in, std::byte* out, int64_t n) {
  switch (to) {
    case Dtype::kF32: std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float)); return;
    case Dtype::kBF16: return convert_all<float, uint16_t, bf16_from_f32>(in, out, n);
    case Dtype::kF16: return convert_all<float, uint16_t, f16_from_f32>(in, out, n);
    default: fail(ErrorCode::kInternal, "cannot cast to ", to_string(to));
  }
}

LIGER_INLINE int64_t cast_blocks(Dtype from, const std::byte* in, Dtype to, std::byte* out, int64_t n) {
  alignas(64) float block[kBlock];
  const int64_t in_size = static_cast<int64_t>(item_size(from)), out_size = static_cast<int64_t>(item_size(to));
  int64_t overflows = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    overflows += load(from, in + begin * in_size, block, count);
    overflows += count_overflows(block, count, overflow_of(to));
    store(to, block, out + begin * out_size, count);
  }
  return overflows;
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] int64_t cast_avx2(Dtype from, const std::byte* in, Dtype to, std::byte* out, int64_t n) {
  return cast_blocks(from, in, to, out, n);
}
bool has_avx2() { return __builtin_cpu_supports("avx2") != 0; }
#else
constexpr auto cast_avx2 = cast_blocks;
bool has_avx2() { return false; }
#endif

}  // namespace

int64_t cast(Dtype from, const std::byte* in, Dtype to, std::byte* out, int64_t n) {
  return has_avx2() ? cast_avx2(from, in, to, out, n) : cast_blocks(from, in, to, out, n);
}

}  // namespace liger
