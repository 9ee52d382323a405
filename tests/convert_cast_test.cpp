#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "convert/cast.h"
#include "liger/core/dtype.h"

namespace liger {
namespace {

// Random bits are random exponents: subnormals, infinities and NaN of all kinds are among them.
std::vector<std::byte> random_bits(Dtype dtype, int64_t n) {
  std::mt19937_64 random(7);
  std::vector<std::byte> bytes(static_cast<size_t>(n) * item_size(dtype));
  for (size_t at = 0; at < bytes.size(); at += 2) {
    const uint64_t bits = random();
    std::memcpy(&bytes[at], &bits, 2);
  }
  return bytes;
}

std::vector<std::byte> all_halves() {
  std::vector<std::byte> bytes(2 * 65536);
  for (uint32_t i = 0; i < 65536; ++i) std::memcpy(&bytes[2 * i], &i, 2);
  return bytes;
}

// Around every halfway point that rounding could get wrong: sums of two numbers of the narrow type's precision.
std::vector<std::byte> near_ties() {
  std::vector<std::byte> bytes;
  for (uint32_t exponent = 90; exponent < 255; ++exponent) {
    for (uint32_t top = 0; top < 16; ++top) {
      for (const uint32_t cut : {13u, 14u, 15u, 16u, 17u, 20u, 22u}) {
        for (const uint32_t offset : {0u, 1u, 0xffffffffu}) {
          const uint32_t mantissa = ((top << cut) + (1u << (cut - 1)) + offset) & 0x7fffff;
          const uint32_t bits = exponent << 23 | mantissa;
          const auto* from = reinterpret_cast<const std::byte*>(&bits);
          bytes.insert(bytes.end(), from, from + 4);
        }
      }
    }
  }
  return bytes;
}

void expect_equal_to_torch(Dtype from, std::vector<std::byte> in, Dtype to) {
  const int64_t n = static_cast<int64_t>(in.size() / item_size(from));
  std::vector<std::byte> out(static_cast<size_t>(n) * item_size(to));
  const int64_t overflows = cast(from, in.data(), to, out.data(), n);

  const at::Tensor source = at::from_blob(in.data(), {n}, to_scalar_type(from));
  const at::Tensor expected = source.to(to_scalar_type(to));
  const at::Tensor got = at::from_blob(out.data(), {n}, to_scalar_type(to));
  const auto bits = [](const at::Tensor& t) { return t.element_size() == 2 ? t.view(at::kShort) : t.view(at::kInt); };
  const at::Tensor same = bits(got).eq(bits(expected)).logical_or(got.isnan().logical_and(expected.isnan()));
  EXPECT_TRUE(same.all().item<bool>()) << to_string(from) << " -> " << to_string(to) << ": "
                                       << n - same.sum().item<int64_t>() << " of " << n << " differ";
  EXPECT_EQ(overflows, (expected.isinf().sum() - source.isinf().sum()).item<int64_t>());
}

TEST(Cast, EqualsTorchOnRandomBits) {
  for (const Dtype from : {Dtype::kF64, Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    for (const Dtype to : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      expect_equal_to_torch(from, random_bits(from, 300'001), to);
    }
  }
}

TEST(Cast, EqualsTorchOnEveryHalf) {
  for (const Dtype from : {Dtype::kBF16, Dtype::kF16}) {
    for (const Dtype to : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) expect_equal_to_torch(from, all_halves(), to);
  }
}

TEST(Cast, RoundsTiesToEven) {
  expect_equal_to_torch(Dtype::kF32, near_ties(), Dtype::kBF16);
  expect_equal_to_torch(Dtype::kF32, near_ties(), Dtype::kF16);
}

TEST(Cast, CountsWhatBecomesInfinite) {
  const float in[] = {1.0f, 65504.0f, 65519.9f, 65520.0f, -1e6f, INFINITY, NAN};
  uint16_t out[7];
  EXPECT_EQ(
      cast(Dtype::kF32, reinterpret_cast<const std::byte*>(in), Dtype::kF16, reinterpret_cast<std::byte*>(out), 7), 2);
  EXPECT_EQ(out[2], 0x7bff);
  EXPECT_EQ(out[3], 0x7c00);
  EXPECT_EQ(out[4], 0xfc00);
}

TEST(Cast, NothingIsNothing) { EXPECT_EQ(cast(Dtype::kF32, nullptr, Dtype::kF16, nullptr, 0), 0); }

}  // namespace
}  // namespace liger
