// What one warp does with tiles of 16 rows: products by tensor cores, and the loads of their operands from shared
// memory. The only file that speaks PTX; beside each instruction stands what it does for compilers of the host.
//
// In all of it g = lane / 4 and t = lane % 4, as in the PTX manual's figures of mma.m16n8k16.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "launch.h"

namespace liger::kernels {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

#ifdef LIGER_ON_HOST
inline float to_float(BFloat16 x) { return cuda_on_host::from_bits<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(Half x) { return static_cast<float>(cuda_on_host::from_bits<_Float16>(x.bits)); }
inline void round_to(float x, BFloat16& out) { out.bits = cuda_on_host::bfloat16_bits(x); }
inline void round_to(float x, Half& out) { out.bits = cuda_on_host::bits_of<uint16_t>(static_cast<_Float16>(x)); }
#else
LIGER_DEVICE float to_float(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
LIGER_DEVICE float to_float(Half x) { return __half2float(__ushort_as_half(x.bits)); }
LIGER_DEVICE void round_to(float x, BFloat16& out) { out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
LIGER_DEVICE void round_to(float x, Half& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }
#endif
LIGER_DEVICE float to_float(float x) { return x; }
LIGER_DEVICE void round_to(float x, float& out) { out = x; }
template <typename E>
LIGER_DEVICE E rounded(float x) {
  E out;
  round_to(x, out);
  return out;
}

/// Two neighbouring elements, the smaller index first: a register of 16-bit elements, two of floats.
template <typename E>
struct alignas(2 * sizeof(E)) Pair {
  E x, y;
};

/// A of a product: element (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8) and the column right of each.
template <typename E>
struct OperandA {
  Pair<E> pair[4];
};
/// B: rows 2t and 2t + 8 and the row below each, of column g.
template <typename E>
struct OperandB {
  Pair<E> pair[2];
};
/// C: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
struct Accumulator {
  float x[4] = {};
};

LIGER_DEVICE int lane() { return static_cast<int>(threadIdx.x) % 32; }
LIGER_DEVICE int lane_row() { return static_cast<int>(threadIdx.x) % 32 / 4; }
LIGER_DEVICE int lane_column() { return static_cast<int>(threadIdx.x) % 4 * 2; }

template <typename E>
LIGER_DEVICE Pair<E> load_pair(const E* p) {
  return *reinterpret_cast<const Pair<E>*>(p);
}

// 16-bit operands come by ldmatrix, which reads rows of 16 bytes that begin at multiples of 16, and can turn them on the
// way.
#ifdef LIGER_ON_HOST
template <typename E>
void check_rows(const E* row) {
  if (sizeof(E) == 2 && reinterpret_cast<uintptr_t>(row) % 16 != 0) cuda_on_host::stop("a row of a tile is not aligned");
}
#else
template <bool kTurned, typename E>
LIGER_DEVICE OperandA<E> load_matrices_a(const E* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  uint32_t x[4];
  if constexpr (kTurned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address));
  OperandA<E> out;
  memcpy(&out, x, sizeof x);
  return out;
}
template <bool kTurned, typename E>
LIGER_DEVICE OperandB<E> load_matrices_b(const E* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  uint32_t x[2];
  if constexpr (kTurned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1])
                 : "r"(address));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(x[0]), "=r"(x[1])
                 : "r"(address));
  OperandB<E> out;
  memcpy(&out, x, sizeof x);
  return out;
}
#endif

/// A [16, 16] from rows of `pitch` elements.
template <typename E>
LIGER_DEVICE OperandA<E> load_a(const E* tile, int pitch) {
#ifdef LIGER_ON_HOST
  check_rows(tile + lane() % 16 * pitch);
#else
  if constexpr (sizeof(E) == 2) return load_matrices_a<false>(tile + lane() % 16 * pitch + lane() / 16 * 8);
#endif
  const E* p = tile + lane_row() * pitch + lane_column();
  return {{load_pair(p), load_pair(p + 8 * pitch), load_pair(p + 8), load_pair(p + 8 * pitch + 8)}};
}
/// B [16, 8] from its columns, each a row of `pitch` elements.
template <typename E>
LIGER_DEVICE OperandB<E> load_b(const E* tile, int pitch) {
#ifdef LIGER_ON_HOST
  check_rows(tile + lane() % 8 * pitch);
#else
  if constexpr (sizeof(E) == 2) return load_matrices_b<false>(tile + lane() % 8 * pitch + lane() / 8 % 2 * 8);
#endif
  const E* p = tile + lane_row() * pitch + lane_column();
  return {{load_pair(p), load_pair(p + 8)}};
}

/// A [16, 16] from its columns, each a row of `pitch` elements.
template <typename E>
LIGER_DEVICE OperandA<E> load_a_transposed(const E* tile, int pitch) {
#ifdef LIGER_ON_HOST
  check_rows(tile + lane() % 16 * pitch);
#else
  if constexpr (sizeof(E) == 2)
    return load_matrices_a<true>(tile + (lane() % 8 + lane() / 16 * 8) * pitch + lane() / 8 % 2 * 8);
#endif
  const E* p = tile + lane_column() * pitch + lane_row();
  const auto pair = [&](int k, int m) {
    return Pair<E>{p[k * pitch + m], p[(k + 1) * pitch + m]};
  };
  return {{pair(0, 0), pair(0, 8), pair(8, 0), pair(8, 8)}};
}
/// B [16, 8] from rows of `pitch` elements.
template <typename E>
LIGER_DEVICE OperandB<E> load_b_transposed(const E* tile, int pitch) {
#ifdef LIGER_ON_HOST
  check_rows(tile + lane() % 16 * pitch);
#else
  if constexpr (sizeof(E) == 2) return load_matrices_b<true>(tile + lane() % 16 * pitch);
#endif
  const E* p = tile + lane_column() * pitch + lane_row();
  return {{{p[0], p[pitch]}, {p[8 * pitch], p[9 * pitch]}}};
}

#ifdef LIGER_ON_HOST

/// C += A B, all lanes of a warp together.
template <typename E>
void multiply_add(Accumulator& C, const OperandA<E>& A, const OperandB<E>& B) {
  struct Operands {
    Accumulator* C;
    const OperandA<E>* A;
    const OperandB<E>* B;
  } mine = {&C, &A, &B};
  cuda_on_host::with_warp(&mine, [](void* const* lanes) {
    float a[16][16], b[16][8];
    const auto of = [&](int lane) { return static_cast<const Operands*>(lanes[lane]); };
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        const Pair<E>& pair = of(lane)->A->pair[i];
        a[g + i % 2 * 8][t + i / 2 * 8] = to_float(pair.x);
        a[g + i % 2 * 8][t + i / 2 * 8 + 1] = to_float(pair.y);
      }
      for (int i = 0; i < 2; ++i) {
        b[t + i * 8][g] = to_float(of(lane)->B->pair[i].x);
        b[t + i * 8 + 1][g] = to_float(of(lane)->B->pair[i].y);
      }
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        float total = 0;
        for (int k = 0; k < 16; ++k) total += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
        of(lane)->C->x[i] += total;
      }
  });
}
/// What the lane whose number differs in the bit `mask` has.
inline float exchange(float x, int mask) {
  struct Values {
    float given, taken;
    int mask;
  } mine = {x, 0, mask};
  cuda_on_host::with_warp(&mine, [](void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      auto* value = static_cast<Values*>(lanes[lane]);
      value->taken = static_cast<const Values*>(lanes[lane ^ value->mask])->given;
    }
  });
  return mine.taken;
}
/// Sixteen bytes from global to shared memory, or zeros; there once wait_for_copies() has returned.
inline void copy_async(void* to, const void* from, bool there) {
  cuda_on_host::copy_later(to, from, there ? 16 : 0, 16);
}
/// The same of one float.
inline void copy_float_async(float* to, const float* from, bool there) {
  cuda_on_host::copy_later(to, from, there ? 4 : 0, 4);
}
/// Closes a group of copies.
inline void close_copies() { cuda_on_host::close_copies(); }
/// Until at most kLeft of this thread's closed groups are under way.
template <int kLeft>
void wait_for_copies() {
  cuda_on_host::wait_for_copies(kLeft);
}
/// What the lanes of a warp wrote to shared memory before it, all of them see after it.
inline void sync_warp() {
  int nothing = 0;
  cuda_on_host::with_warp(&nothing, [](void* const*) {});
}

#else

template <typename P>
LIGER_DEVICE uint32_t as_register(const P& pair) {
  static_assert(sizeof(P) == 4, "two 16-bit elements");
  uint32_t out;
  memcpy(&out, &pair, 4);
  return out;
}

LIGER_DEVICE void multiply_add(Accumulator& C, const OperandA<BFloat16>& A, const OperandB<BFloat16>& B) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(C.x[0]), "+f"(C.x[1]), "+f"(C.x[2]), "+f"(C.x[3])
      : "r"(as_register(A.pair[0])), "r"(as_register(A.pair[1])), "r"(as_register(A.pair[2])),
        "r"(as_register(A.pair[3])), "r"(as_register(B.pair[0])), "r"(as_register(B.pair[1])));
}
LIGER_DEVICE void multiply_add(Accumulator& C, const OperandA<Half>& A, const OperandB<Half>& B) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(C.x[0]), "+f"(C.x[1]), "+f"(C.x[2]), "+f"(C.x[3])
      : "r"(as_register(A.pair[0])), "r"(as_register(A.pair[1])), "r"(as_register(A.pair[2])),
        "r"(as_register(A.pair[3])), "r"(as_register(B.pair[0])), "r"(as_register(B.pair[1])));
}

// A float as the sum of two of TF32's precision: 22 bits, which the products of both parts keep but for 2^-22.
struct Split {
  uint32_t high, low;
};
LIGER_DEVICE Split split(float x) {
  Split out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out.high) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out.low) : "f"(x - __uint_as_float(out.high)));
  return out;
}
LIGER_DEVICE void multiply_add_tf32(Accumulator& C, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(C.x[0]), "+f"(C.x[1]), "+f"(C.x[2]), "+f"(C.x[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// m16n8k8 wants columns t and t + 4 where a lane has 2t and 2t + 1: the same terms of the sum in another order.
LIGER_DEVICE void multiply_add(Accumulator& C, const OperandA<float>& A, const OperandB<float>& B) {
  LIGER_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Pair<float>&upper = A.pair[2 * half], &lower = A.pair[2 * half + 1];
    const Split a[4] = {split(upper.x), split(lower.x), split(upper.y), split(lower.y)};
    const Split b[2] = {split(B.pair[half].x), split(B.pair[half].y)};
    const uint32_t high[4] = {a[0].high, a[1].high, a[2].high, a[3].high};
    const uint32_t low[4] = {a[0].low, a[1].low, a[2].low, a[3].low};
    multiply_add_tf32(C, low, b[0].high, b[1].high);
    multiply_add_tf32(C, high, b[0].low, b[1].low);
    multiply_add_tf32(C, high, b[0].high, b[1].high);
  }
}

LIGER_DEVICE float exchange(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
LIGER_DEVICE void copy_async(void* to, const void* from, bool there) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = there ? 16 : 0;  // the rest of the 16 become zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
LIGER_DEVICE void copy_float_async(float* to, const float* from, bool there) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = there ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
LIGER_DEVICE void sync_warp() { __syncwarp(); }
LIGER_DEVICE void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
LIGER_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

#endif

LIGER_DEVICE float sum_over_warp(float x) {
  LIGER_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += exchange(x, mask);
  return x;
}
LIGER_DEVICE float max_over_warp(float x) {
  LIGER_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, exchange(x, mask));
  return x;
}

}  // namespace liger::kernels
