// The passes over the heads of a job, and the table of one instruction set: included last by each kernels_*.cpp.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/cache_step.h"
#include "cpu/choice.h"
#include "cpu/linear.h"
#include "cpu/mix_run.h"
#include "cpu/rows.h"
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

// Calls body with the type of the run for the head's elements.
template <bool kBackward, typename Body>
auto with_run(const MixHead& head, const Body& body) {
  switch (head.element) {
    case Element::kBFloat16: return body(std::type_identity<MixRun<float, BFloat16, kBackward>>());
    case Element::kDouble: return body(std::type_identity<MixRun<double, double, kBackward>>());
    default: return body(std::type_identity<MixRun<float, float, kBackward>>());
  }
}
template <bool kBackward, typename Body>
auto with_run(const ScanHead& head, const Body& body) {
  if (head.element == Element::kDouble) return body(std::type_identity<ScanRun<double, kBackward>>());
  return body(std::type_identity<ScanRun<float, kBackward>>());
}

// The runs of heads that share a job, and the memory they need: each its own, then what they share.
template <typename Run, bool kBackward>
class HeadsRun {
 public:
  template <typename Head>
  HeadsRun(const Head* heads, const typename Run::Pass* passes, int64_t count, void* memory) {
    const int64_t own = sizes(heads[0]).own * count;
    Workspace space{Arena(memory), Arena(), ahead_};
    runs_.reserve(static_cast<size_t>(count));
    for (int64_t h = 0; h < count; ++h) {
      space.shared = Arena(static_cast<char*>(memory) + own);
      runs_.emplace_back(heads[h], space);
      runs_.back().begin(passes[h]);
    }
    if constexpr (kBackward) {
      backward_pass(runs_, heads[0].tokens, starts(space, runs_[0]), ahead_);
    } else {
      forward_pass(runs_, heads[0].tokens, ahead_);
    }
    for (Run& run : runs_) run.end();
  }

  template <typename Head>
  static int64_t bytes(const Head& head, int64_t count) {
    const Sizes each = sizes(head);
    return each.own * count + each.shared;
  }
  template <typename Head>
  static int64_t state_scalars(const Head& head) {
    Ahead ahead;
    Workspace space{Arena(), Arena(), ahead};
    return Run(head, space).state_scalars();
  }

 private:
  struct Sizes {
    int64_t own, shared;
  };
  template <typename Head>
  static Sizes sizes(const Head& head) {
    Ahead ahead;
    Workspace space{Arena(), Arena(), ahead};
    const Run run(head, space);
    if constexpr (kBackward) starts(space, run);
    return {space.own.bytes(), space.shared.bytes()};
  }
  static auto* starts(Workspace& space, const Run& run) {
    return space.shared.take<typename Run::Scalar>((kSegmentChunks - 1) * run.state_scalars());
  }

  Ahead ahead_;
  std::vector<Run> runs_;
};

template <typename Head, bool kBackward>
int64_t scratch(const Head& head, int64_t heads) {
  return with_run<kBackward>(
      head, [&](auto run) { return HeadsRun<typename decltype(run)::type, kBackward>::bytes(head, heads); });
}
template <typename Head>
int64_t checkpoint_scalars(const Head& head) {
  return with_run<false>(head, [&](auto run) {
    return HeadsRun<typename decltype(run)::type, false>::state_scalars(head) * segments(head.tokens);
  });
}
template <typename Head, typename Pass, bool kBackward>
void run_pass(const Head* heads, const Pass* passes, int64_t count, void* memory) {
  const FlushDenormals flush;
  with_run<kBackward>(
      heads[0], [&](auto run) { HeadsRun<typename decltype(run)::type, kBackward>(heads, passes, count, memory); });
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
void step_add_low_rank(const LowRankView& B, int64_t begin, int64_t end, int64_t sequences, ActivationRows h,
                       ActivationRows y) {
  add_low_rank(B, begin, end, sequences, Rows<const float>{h.data, h.stride}, Rows<float>{y.data, y.stride});
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
  return {
      name,
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
      {step_dot_rows, gate_by, step_add_low_rank, rms_norm<float>, step_widen_row, step_mix_scratch, step_mix,
       step_cache_scratch, step_cache},
      {norm_rows, norm_rows_backward, gate_rows, gate_rows_backward, cross_entropy_row, softmax_piece_row, choose_row}};
}

}  // namespace
}  // namespace liger
