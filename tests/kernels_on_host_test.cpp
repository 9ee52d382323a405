// The host's stand-in for CUDA finds what it is there to find.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cuda_on_host.h"
#include "device.h"
#include "tile.cuh"

namespace liger {
namespace {

struct Nothing {};
void writes_past_the_end(const Nothing&) {
  LIGER_SHARED(memory);
  memory[16 * threadIdx.x] = 0;
}
void leaves_before_a_barrier(const Nothing&) {
  if (threadIdx.x > 0) __syncthreads();
}
void reads_without_a_barrier(float* const& out) {
  LIGER_SHARED(memory);
  reinterpret_cast<float*>(memory)[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = reinterpret_cast<float*>(memory)[(threadIdx.x + 1) % 32];
}
void reads_before_its_copy(float* const& out) {
  LIGER_SHARED(memory);
  kernels::copy_async(memory + 16 * threadIdx.x, out + 4 * threadIdx.x, true);
  kernels::close_copies();
  out[4 * threadIdx.x] = reinterpret_cast<float*>(memory)[4 * threadIdx.x];
  kernels::wait_for_copies<0>();
}

TEST(CudaOnHostDeathTest, CatchesWhatAGpuWouldNotShow) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(kernels::launch("", writes_past_the_end, dim3(1), 32, 496, nullptr, Nothing()), "");
  EXPECT_DEATH(kernels::launch("", leaves_before_a_barrier, dim3(1), 32, 0, nullptr, Nothing()),
               "a barrier or a warp waits for threads that do not come");
}

// What a device answers, or that it does not; an error asked away is not found by whoever asks next.
TEST(CudaOnHost, DevicesAreRefusedWithTheReason) {
  EXPECT_EQ(kernels::device_refuses(0), nullptr);
  EXPECT_STREQ(kernels::device_refuses(1),
               "the device has compute capability 8.x and 99 KiB of shared memory to a "
               "block; the kernels need 8.0 and 163");
  EXPECT_STREQ(kernels::device_refuses(2), "the device does not answer");
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(CudaOnHost, ShowsRacesAndEarlyReads) {
  std::vector<float> forward(32), backward(32), copied(128, 1.0f);
  float* out = forward.data();
  kernels::launch("", reads_without_a_barrier, dim3(1), 32, 128, nullptr, out);
  cuda_on_host::thread_order = 1;
  out = backward.data();
  kernels::launch("", reads_without_a_barrier, dim3(1), 32, 128, nullptr, out);
  cuda_on_host::thread_order = 0;
  EXPECT_NE(std::memcmp(forward.data(), backward.data(), 128), 0);
  out = copied.data();
  kernels::launch("", reads_before_its_copy, dim3(1), 32, 512, nullptr, out);
  EXPECT_TRUE(std::isnan(copied[0]));
}

}  // namespace
}  // namespace liger
