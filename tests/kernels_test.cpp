// The CUDA sources, compiled for the host, against the definition.

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/randn.h>

#include "liger/recurrence/recurrence.h"
#include "tensor_testing.h"

// The library has the same names from no_cuda.cpp or nvcc; these are the host's own.
#define kernels kernels_on_host
#include "cuda_on_host.h"
#include "../kernels/diagonal_scan_fwd.cu"
#undef kernels

namespace liger {
namespace {

using kernels_on_host::DiagonalScanForward;

class DiagonalScanKernel : public ::testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(DiagonalScanKernel, EqualsTheDefinition) {
  const auto [K, T] = GetParam();
  const int64_t B = 2, H = 6, Hkv = 2, V = 40;
  ASSERT_TRUE(kernels_on_host::diagonal_scan_fwd_supports(K));
  at::manual_seed(1);
  const ScanInputs in = {at::randn({B, T, H, K}), at::randn({B, T, Hkv, K}), at::randn({B, T, Hkv, V}),
                         at::log_sigmoid(at::randn({B, T, Hkv, K}) * 3), {}, at::randn({B, Hkv, K, V})};
  at::Tensor state = at::empty({B, Hkv, K, V}), o = at::empty({B, T, H, V});
  const DiagonalScanForward args = {B,
                                    T,
                                    H,
                                    Hkv,
                                    K,
                                    V,
                                    in.q.const_data_ptr<float>(),
                                    in.k.const_data_ptr<float>(),
                                    in.v.const_data_ptr<float>(),
                                    in.g.const_data_ptr<float>(),
                                    in.state.const_data_ptr<float>(),
                                    state.mutable_data_ptr<float>(),
                                    o.mutable_data_ptr<float>()};
  ASSERT_EQ(kernels_on_host::diagonal_scan_fwd(args, nullptr), nullptr);
  const ScanOutputs expected = gated_scan(in, ScanMethod::kReference);
  testing::expect_close(o, expected.o, 1e-5, "o");
  testing::expect_close(state, expected.state, 1e-5, "state");
}

INSTANTIATE_TEST_SUITE_P(Shapes, DiagonalScanKernel,
                         ::testing::Combine(::testing::Values(8, 16, 32, 64, 128), ::testing::Values(1, 19)));

TEST(DiagonalScanKernel, SaysWhatItCannotRun) {
  EXPECT_FALSE(kernels_on_host::diagonal_scan_fwd_supports(48));
  DiagonalScanForward args = {};
  args.K = 48;
  EXPECT_NE(kernels_on_host::diagonal_scan_fwd(args, nullptr), nullptr);
}

}  // namespace
}  // namespace liger
