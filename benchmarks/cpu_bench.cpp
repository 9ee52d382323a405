// The CPU kernels by themselves: scans, the window, every structure.
//   cpu_bench --benchmark_filter=scan --benchmark_repetitions=9 --benchmark_report_aggregates_only=true

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>

#include "cpu/kernels.h"
#include "liger/core/tensor_memory.h"
#include "liger/io/process.h"
#include "liger/recurrence/recurrence.h"
#include "nn/fused_mix.h"

namespace liger {
namespace {

// What performance.md of any scan counts: 2 multiply-adds a state element to write and read it, and within chunks of 64
// two of 64 D, both products full.
double counted_flops(int64_t tokens, int64_t heads, int64_t D) {
  return static_cast<double>(tokens * heads) * (4.0 * 64 * static_cast<double>(D) + 4.0 * static_cast<double>(D * D));
}

ScanInputs scan_inputs(const benchmark::State& state, bool gradients) {
  at::manual_seed(0);
  const int64_t B = state.range(0), T = state.range(1), H = state.range(2), D = state.range(3);
  const auto leaf = [&](at::Tensor x) { return x.set_requires_grad(gradients); };
  return {leaf(at::randn({B, T, H, D})),
          leaf(at::randn({B, T, H, D})),
          leaf(at::randn({B, T, H, D})),
          leaf(at::log_sigmoid(at::randn({B, T, H, D})) / 16.0),
          {},
          {}};
}

void report(benchmark::State& state) {
  const double flops = counted_flops(state.range(0) * state.range(1), state.range(2), state.range(3));
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

void scan_forward(benchmark::State& state) {
  at::NoGradGuard no_grad;
  const ScanInputs in = scan_inputs(state, false);
  for (auto _ : state) benchmark::DoNotOptimize(gated_scan(in).o.data_ptr());
  report(state);
}

void scan_forward_backward(benchmark::State& state) {
  const ScanInputs in = scan_inputs(state, true);
  const at::Tensor grad = at::randn_like(in.v);
  for (auto _ : state) torch::autograd::grad({gated_scan(in).o}, {in.q, in.k, in.v, in.g}, {grad});
}

// In a process of its own: what the first pass and its gradients add to the peak, the inputs not counted.
void scan_memory(benchmark::State& state) {
  const ScanInputs in = scan_inputs(state, true);
  const at::Tensor grad = at::randn_like(in.v);
  for (auto _ : state) {
    const int64_t before = peak_memory_bytes();
    const auto grads = torch::autograd::grad({gated_scan(in).o}, {in.q, in.k, in.v, in.g}, {grad});
    state.counters["MB"] = static_cast<double>(peak_memory_bytes() - before) * 1e-6;
  }
}

MixInputs mix_inputs(const benchmark::State& state, bool gradients) {
  at::manual_seed(0);
  const int64_t B = state.range(0), T = state.range(1), H = state.range(2), D = state.range(3);
  const auto leaf = [&] { return at::randn({B * T, H, D}).set_requires_grad(gradients); };
  const at::Tensor positions = at::arange(T, at::kLong).repeat({B});
  return {leaf(), leaf(), leaf(), rotation(rope_frequencies({}, D, at::kCPU), positions), std::vector<int64_t>(B, T),
          {}};
}

void mix(benchmark::State& state, const MixSettings& settings, bool gradients) {
  const MixInputs in = mix_inputs(state, gradients);
  const at::Tensor grad = at::randn_like(in.q.detach());
  for (auto _ : state) {
    const MixOutputs out = fused_mix(settings, in);
    if (gradients) torch::autograd::grad({out.o}, {in.q, in.k, in.v}, {grad});
  }
}
void window_forward(benchmark::State& state) { mix(state, {.recurrence = {}, .window = 64, .window_share = 1}, false); }
void window_forward_backward(benchmark::State& state) {
  mix(state, {.recurrence = {}, .window = 64, .window_share = 1}, true);
}
void liger_gla_forward(benchmark::State& state) { mix(state, {.recurrence = {find_structure("gla")}}, false); }
void liger_gla_forward_backward(benchmark::State& state) { mix(state, {.recurrence = {find_structure("gla")}}, true); }

// Every structure on one shape, for what a gate or the delta rule costs.
void structure_forward_backward(benchmark::State& state, const Structure* structure) {
  mix(state, {.recurrence = {structure}, .window = 0}, true);
}

#define LIGER_SHAPES Args({1, 1024, 6, 48})->Args({1, 2048, 8, 64})->Args({2, 2048, 16, 128})
BENCHMARK(scan_forward)->LIGER_SHAPES->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(scan_forward_backward)->LIGER_SHAPES->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(scan_memory)->LIGER_SHAPES->Iterations(1);
BENCHMARK(window_forward)->Args({1, 2048, 8, 64})->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(window_forward_backward)->Args({1, 2048, 8, 64})->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(liger_gla_forward)->LIGER_SHAPES->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(liger_gla_forward_backward)->LIGER_SHAPES->Unit(benchmark::kMillisecond)->UseRealTime();

void register_structures() {
  for (const Structure& structure : structures()) {
    if (structure.window_only) continue;
    benchmark::RegisterBenchmark((std::string("structure_forward_backward/") + structure.name).c_str(),
                                 structure_forward_backward, &structure)
        ->Args({1, 2048, 8, 64})
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  }
}

}  // namespace
}  // namespace liger

int main(int argc, char** argv) {
  // Freed memory is kept, for the peers too: otherwise page faults of large outputs take more time than the work.
  if (std::getenv("LIGER_DEFAULT_MALLOC") == nullptr) liger::keep_tensor_memory();
  liger::register_structures();
  benchmark::AddCustomContext("kernels", liger::cpu_kernels().name);
  benchmark::AddCustomContext("threads", std::to_string(at::get_num_threads()));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
