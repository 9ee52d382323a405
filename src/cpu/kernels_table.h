// The table of one instruction set: included last by each kernels_*.cpp.
#pragma once

#include "cpu/cache_step.h"
#include "cpu/linear.h"
#include "cpu/mix_run.h"
#include "cpu/scan_run.h"
#include "cpu/step.h"

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

// Calls body with the weight in its own type.
template <typename Body>
void with_weight(const WeightView& w, const Body& body) {
  if (w.element == Element::kBFloat16)
    return body(Weight<BFloat16>{static_cast<const BFloat16*>(w.data), w.columns, w.bias});
  body(Weight<float>{static_cast<const float*>(w.data), w.columns, w.bias});
}

void step_dot_rows(const WeightView& w, int64_t begin, int64_t end, int64_t sequences, ActivationRows x,
                   ActivationRows y) {
  with_weight(w, [&](const auto& weight) {
    dot_rows(weight, begin, end, sequences, Rows<const float>{x.data, x.stride}, Rows<float>{y.data, y.stride});
  });
}
void step_widen_row(const WeightView& w, int64_t row, float* to) {
  with_weight(w, [&](const auto& weight) { widen_row(weight.data + row * w.columns, w.columns, to); });
}
int64_t step_mix_scratch(const MixHead& head) {
  Arena arena;
  MixStepRun(head, arena);
  return arena.bytes();
}
void step_mix(const MixHead& head, const MixForward& pass, void* memory) {
  const FlushDenormals flush;
  Arena arena(memory);
  MixStepRun(head, arena).run(pass);
}
int64_t step_cache_scratch(const CacheHead& head) {
  Arena arena;
  CacheStep<float>(head, arena);
  return arena.bytes();
}
void step_cache(const CacheHead& head, void* memory) {
  Arena arena(memory);
  if (head.element == Element::kBFloat16) return CacheStep<BFloat16>(head, arena).run();
  CacheStep<float>(head, arena).run();
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
          run_pass<ScanHead, ScanBackward, true>,
          {step_dot_rows, gate_by, add_low_rank, rms_norm<float>, step_widen_row, step_mix_scratch, step_mix,
           step_cache_scratch, step_cache}};
}

}  // namespace
}  // namespace liger
