// Decoding at batch 1, bfloat16, in the shapes of stories15M and stories110M with random weights.

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <benchmark/benchmark.h>

#include <map>

#include "liger/nn/causal_lm.h"
#include "liger/nn/step_decoder.h"
#include "machine.h"
#include "models.h"

namespace liger {
namespace {

int64_t weight_bytes(const CausalLM& model) {
  int64_t bytes = 0;
  for (const at::Tensor& parameter : model.parameters()) bytes += static_cast<int64_t>(parameter.nbytes());
  return bytes;
}

// Tokens after a prompt of range(0) tokens.
void decode(benchmark::State& state, bool large, bool liger) {
  at::NoGradGuard no_grad;
  at::manual_seed(0);
  CausalLM model(benchmarks::shape_of(large, liger), at::kBFloat16);
  model.eval();
  DecodingState memory;
  for (int64_t left = state.range(0); left > 0; left -= 1024)
    model.hidden_states(Sequences({std::vector<int64_t>(std::min<int64_t>(left, 1024), 7)}), &memory);
  StepDecoder steps(model, 1);
  const int64_t id = 11;
  steps.step(std::span(&id, 1), memory);
  for (auto _ : state) benchmark::DoNotOptimize(steps.step(std::span(&id, 1), memory).data_ptr());
  const double tokens = static_cast<double>(state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  state.counters["GB/s"] =
      benchmark::Counter(tokens * static_cast<double>(weight_bytes(model)) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["state_bytes"] = static_cast<double>(memory.bytes());
}

void decode_15M(benchmark::State& state) { decode(state, false, true); }
void decode_110M(benchmark::State& state) { decode(state, true, true); }
void decode_softmax_15M(benchmark::State& state) { decode(state, false, false); }
void decode_softmax_110M(benchmark::State& state) { decode(state, true, false); }

// A fixed number of tokens: looking for one would read the prompt anew each time.
#define LIGER_TOKENS(n) Iterations(n)->Unit(benchmark::kMicrosecond)->UseRealTime()
BENCHMARK(decode_15M)->Arg(128)->Arg(4096)->Arg(32768)->LIGER_TOKENS(800);
BENCHMARK(decode_110M)->Arg(128)->Arg(4096)->LIGER_TOKENS(200);
BENCHMARK(decode_softmax_15M)->Arg(128)->Arg(4096)->LIGER_TOKENS(200);
BENCHMARK(decode_softmax_110M)->Arg(128)->Arg(4096)->LIGER_TOKENS(50);

void machine_fma(benchmark::State& state) {
  for (auto _ : state) state.counters["GFLOP/s"] = benchmarks::fma_gflops();
}
void machine_read(benchmark::State& state) {
  for (auto _ : state) state.counters["GB/s"] = benchmarks::read_gigabytes(state.range(0) << 20, at::get_num_threads());
}
BENCHMARK(machine_fma)->Iterations(1);
BENCHMARK(machine_read)->Arg(30)->Arg(220)->Arg(1024)->Iterations(1);

}  // namespace
}  // namespace liger
