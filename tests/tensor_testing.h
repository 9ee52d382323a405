#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace liger::testing {

/// Largest difference, relative to the largest magnitude expected (or to 1 where that is smaller than 1e-30).
inline double relative_error(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor a = got.detach().to(at::kDouble), b = expected.detach().to(at::kDouble);
  const double scale = b.abs().max().item<double>();
  return (a - b).abs().max().item<double>() / (scale > 1e-30 ? scale : 1.0);
}

inline void expect_close(const at::Tensor& got, const at::Tensor& expected, double tolerance, const char* what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  EXPECT_TRUE(got.detach().isfinite().all().item<bool>()) << what << " is not finite";
  EXPECT_LE(relative_error(got, expected), tolerance) << what;
}

}  // namespace liger::testing
