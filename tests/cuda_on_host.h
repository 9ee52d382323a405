#pragma once

// Enough of CUDA to run kernels on the host: a test includes this, then the .cu file itself. Blocks run one after the
// other; the threads of a block are fibres that hand over at barriers and where a warp works together.
//
// What a GPU would not show, this does: shared memory ends at a page that may not be touched and begins as NaN;
// asynchronous copies arrive only when they are waited for; threads run in an order that a test chooses, so that one
// which reads what another should have written before a barrier gives other numbers in another order; a barrier that
// not all threads reach is an error.

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#define LIGER_ON_HOST
#define __global__
#define __device__
#define __launch_bounds__(...)
#define LIGER_DEVICE inline
#define LIGER_UNROLL
#define LIGER_ROLLED
#define LIGER_SHARED(name) unsigned char* const name = cuda_on_host::shared_memory()

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace cuda_on_host {

template <typename To, typename From>
To from_bits(From bits) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
template <typename Bits, typename From>
Bits bits_of(From x) {
  return from_bits<Bits>(x);
}
inline uint16_t bfloat16_bits(float x) {
  const uint32_t bits = bits_of<uint32_t>(x);
  return x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

[[noreturn]] inline void stop(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s, block (%u, %u, %u), thread %u\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x);
  std::abort();
}

/// Bytes that end where the next page may not be touched, all 0xff: NaN in every type.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    whole_ = ((bytes + page - 1) / page + 2) * page;
    pages_ = static_cast<unsigned char*>(mmap(nullptr, whole_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (pages_ == MAP_FAILED || mprotect(pages_ + page, whole_ - 2 * page, PROT_READ | PROT_WRITE) != 0)
      stop("no memory");
    data_ = pages_ + whole_ - page - (bytes + 15) / 16 * 16;
    fill();
  }
  GuardedMemory(const GuardedMemory&) = delete;
  ~GuardedMemory() { munmap(pages_, whole_); }
  void fill() { std::memset(data_, 0xff, bytes_); }
  unsigned char* data() const { return data_; }

 private:
  size_t bytes_, whole_ = 0;
  unsigned char *pages_ = nullptr, *data_ = nullptr;
};

/// The order in which the warps of a block, and the threads of a warp, take their turns; 0 is that of their numbers, 1
/// the reverse, others are shuffled. In 1 asynchronous copies arrive at once, in the others as late as they may.
inline unsigned thread_order = 0;

struct Copy {
  void* to;
  const void* from;
  size_t bytes, whole;
};

struct Fibre {
  ucontext_t context = {};  // where it begins
  jmp_buf here;             // and goes on: a switch of contexts would call the kernel of the host each time
  bool begun = false;
  int barriers = 0;  // passed or waited for
  bool done = false;
  std::deque<std::vector<Copy>> copies = {{}};  // closed groups, then the open one
};
struct Warp {
  std::array<void*, 32> lanes = {};
  int here = 0, turns = 0;
};

class Block {
 public:
  Block(unsigned threads, size_t shared, const std::function<void()>& kernel)
      : kernel_(kernel), shared_(std::max<size_t>(shared, 1)), fibres_(threads), warps_((threads + 31) / 32) {
    const auto ordered = [](std::vector<unsigned> x) {
      std::iota(x.begin(), x.end(), 0u);
      if (thread_order == 1) std::reverse(x.begin(), x.end());
      if (thread_order > 1) std::shuffle(x.begin(), x.end(), std::mt19937(thread_order));
      return x;
    };
    for (const unsigned warp : ordered(std::vector<unsigned>(warps_.size())))
      for (const unsigned lane : ordered(std::vector<unsigned>(32)))
        if (warp * 32 + lane < threads) order_.push_back(warp * 32 + lane);
    // Kept from launch to launch: fresh ones cost more than what runs on them.
    while (stacks().size() < threads) stacks().emplace_back(new char[kStack]);
  }

  void run() {
    shared_.fill();
    for (Fibre& fibre : fibres_) {
      fibre.barriers = 0;
      fibre.done = fibre.begun = false;
      fibre.copies.assign(1, {});
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = stacks()[static_cast<size_t>(&fibre - fibres_.data())].get();
      fibre.context.uc_stack.ss_size = kStack;
      makecontext(&fibre.context, &Block::enter, 0);
    }
    warps_.assign(warps_.size(), {});
    while (!std::all_of(fibres_.begin(), fibres_.end(), [](const Fibre& f) { return f.done; })) {
      const long before = progress_;
      for (size_t first = 0; first < order_.size(); first += 32) run_warp(first);
      if (progress_ == before) stop("a barrier or a warp waits for threads that do not come");
    }
  }

  void barrier() {
    Fibre& me = fibres_[threadIdx.x];
    ++me.barriers;
    ++progress_;
    const auto all_here = [&] {
      return std::all_of(fibres_.begin(), fibres_.end(), [&](const Fibre& f) { return f.barriers >= me.barriers; });
    };
    while (!all_here()) yield();
  }
  void with_warp(void* mine, void (*body)(void* const*)) {
    Warp& warp = warps_[threadIdx.x / 32];
    const int turn = warp.turns;
    warp.lanes[threadIdx.x % 32] = mine;
    ++progress_;
    if (++warp.here == 32) {
      body(warp.lanes.data());
      warp.here = 0;
      ++warp.turns;
    }
    while (warp.turns == turn) yield();
  }
  Fibre& me() { return fibres_[threadIdx.x]; }
  unsigned char* shared() const { return shared_.data(); }

  static Block*& current() {
    static Block* block = nullptr;
    return block;
  }

 private:
  static constexpr size_t kStack = 64 * 1024;

  static void enter() {
    Block& block = *current();
    block.kernel_();
    Fibre& me = block.me();
    for (const auto& group : me.copies)
      if (!group.empty()) stop("a thread ended before its copies arrived");
    me.done = true;
    ++block.progress_;
    _longjmp(block.home_, 1);
  }
  // A warp goes as far as it can before another gets its turn: as far ahead of the others as barriers allow.
  void run_warp(size_t first) {
    for (long before = progress_ - 1; progress_ != before;) {
      before = progress_;
      for (size_t i = first; i < std::min(first + 32, order_.size()); ++i) {
        const unsigned thread = order_[i];
        if (fibres_[thread].done) continue;
        threadIdx.x = thread;
        go(fibres_[thread]);
      }
    }
  }
  void go(Fibre& fibre) {
    if (_setjmp(home_) != 0) return;
    if (fibre.begun) _longjmp(fibre.here, 1);
    fibre.begun = true;
    setcontext(&fibre.context);
  }
  void yield() {
    const unsigned thread = threadIdx.x;
    if (_setjmp(fibres_[thread].here) == 0) _longjmp(home_, 1);
    threadIdx.x = thread;
  }
  static std::vector<std::unique_ptr<char[]>>& stacks() {
    static std::vector<std::unique_ptr<char[]>> all;
    return all;
  }

  const std::function<void()>& kernel_;
  GuardedMemory shared_;
  std::vector<Fibre> fibres_;
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;
  jmp_buf home_;
  long progress_ = 0;
};

inline unsigned char* shared_memory() { return Block::current()->shared(); }
inline void with_warp(void* mine, void (*body)(void* const*)) { Block::current()->with_warp(mine, body); }
inline void arrive(const Copy& copy) {
  std::memset(copy.to, 0, copy.whole);
  std::memcpy(copy.to, copy.from, copy.bytes);
}
inline void copy_later(void* to, const void* from, size_t bytes, size_t whole) {
  const Copy copy = {to, from, bytes, whole};
  if (thread_order == 1) return arrive(copy);
  Block::current()->me().copies.back().push_back(copy);
}
inline void close_copies() { Block::current()->me().copies.push_back({}); }
inline void wait_for_copies(size_t left) {
  auto& groups = Block::current()->me().copies;
  for (; groups.size() > left + 1; groups.pop_front())
    for (const Copy& copy : groups.front()) arrive(copy);
}

}  // namespace cuda_on_host

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cuda_last_error = cudaSuccess;
inline cudaError_t cudaGetLastError() { return std::exchange(cuda_last_error, cudaSuccess); }

/// A device of few multiprocessors: a handful of sequences fills it.
constexpr int cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75,
              cudaDevAttrMaxSharedMemoryPerBlockOptin = 97;
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int device) {
  if (device > 1) return cuda_last_error = 101;
  const int shared = device == 0 ? 163 : 99;  // the second one is of a smaller kind
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? shared * 1024 : 8;
  return cudaSuccess;
}

inline void __syncthreads() { cuda_on_host::Block::current()->barrier(); }

namespace liger::kernels {

template <typename Kernel, typename Arguments>
const char* launch(const char*, Kernel* kernel, dim3 grid, unsigned threads, size_t shared, void*,
                   const Arguments& arguments) {
  const std::function<void()> body = [&] { kernel(arguments); };
  cuda_on_host::Block block(threads, shared, body);
  cuda_on_host::Block::current() = &block;
  gridDim = grid;
  blockDim = dim3(threads);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) block.run();
  cuda_on_host::Block::current() = nullptr;
  return nullptr;
}

}  // namespace liger::kernels
