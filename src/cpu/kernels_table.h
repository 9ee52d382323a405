// The table of one instruction set: included last by each kernels_*.cpp.
#pragma once

#include "cpu/mix_run.h"
#include "cpu/scan_run.h"

namespace liger {
namespace {

// Products of decays may sink below what a normal number can hold; there they are 0, which costs no digit of a sum that
// is not itself so small, and spares the processor's slow path.
class FlushDenormals {
 public:
#ifdef __SSE2__
  FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
  ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

// Calls body with the run of the head's element type.
template <bool kBackward, typename Body>
auto with_run(const MixHead& head, Arena& arena, const Body& body) {
  switch (head.element) {
    case Element::kBFloat16: {
      MixRun<float, BFloat16, kBackward> run(head, arena);
      return body(run);
    }
    case Element::kDouble: {
      MixRun<double, double, kBackward> run(head, arena);
      return body(run);
    }
    default: {
      MixRun<float, float, kBackward> run(head, arena);
      return body(run);
    }
  }
}
template <bool kBackward, typename Body>
auto with_run(const ScanHead& head, Arena& arena, const Body& body) {
  if (head.element == Element::kDouble) {
    ScanRun<double, kBackward> run(head, arena);
    return body(run);
  }
  ScanRun<float, kBackward> run(head, arena);
  return body(run);
}

template <typename Head, bool kBackward>
int64_t scratch(const Head& head) {
  Arena arena;
  return with_run<kBackward>(head, arena, [&](auto&) { return arena.bytes(); });
}
template <typename Head>
int64_t checkpoint_scalars(const Head& head) {
  Arena arena;
  return with_run<false>(head, arena, [&](auto& run) { return run.state_scalars() * segments(head.tokens); });
}
template <typename Head, typename Pass, bool kBackward>
void run_pass(const Head& head, const Pass& pass, void* memory) {
  const FlushDenormals flush;
  Arena arena(memory);
  with_run<kBackward>(head, arena, [&](auto& run) { run.run(pass); });
}

constexpr CpuKernels kernels_named(const char* name) {
  return {name,
          kChunk,
          checkpoint_scalars<MixHead>,
          scratch<MixHead, false>,
          run_pass<MixHead, MixForward, false>,
          scratch<MixHead, true>,
          run_pass<MixHead, MixBackward, true>,
          checkpoint_scalars<ScanHead>,
          scratch<ScanHead, false>,
          run_pass<ScanHead, ScanForward, false>,
          scratch<ScanHead, true>,
          run_pass<ScanHead, ScanBackward, true>};
}

}  // namespace
}  // namespace liger
