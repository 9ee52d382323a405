// One update of LoRA fine-tuning, rank 8 on q, k and v, in the shapes of stories15M and stories110M with random
// weights.

#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <benchmark/benchmark.h>

#include "liger/io/process.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/train/optimizer.h"
#include "models.h"

namespace liger {
namespace {

// range: rows, tokens of a row, percent of the tokens that are learned, those at its end.
void train(benchmark::State& state, bool large, at::ScalarType type) {
  at::manual_seed(0);
  CausalLM model(benchmarks::shape_of(large, true), type);
  add_lora(model, {});
  model.train();
  std::vector<NamedParameter> trained;
  for (const auto& item : model.named_parameters())
    if (item.value().requires_grad()) trained.push_back({item.key(), item.value()});
  AdamW optimizer(trained, {});

  const int64_t rows = state.range(0), length = state.range(1), learned = (length - 1) * state.range(2) / 100;
  const at::Tensor ids = at::randint(model.config().vocab_size, {rows, length}, at::kLong);
  at::Tensor targets = at::full_like(ids, kIgnoredTarget);
  targets.narrow(1, length - 1 - learned, learned).copy_(ids.narrow(1, length - learned, learned));
  const Sequences tokens = Sequences::from_padded(ids);
  for (auto _ : state) {
    optimizer.zero_grad();
    const at::Tensor loss = linear_cross_entropy(model.hidden_states(tokens), model.head_weight(), targets.flatten());
    loss.div(static_cast<double>(rows * learned)).backward();
    optimizer.grad_norm();
    optimizer.step(1e-3);
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * rows * length), benchmark::Counter::kIsRate);
  state.counters["MB"] = static_cast<double>(peak_memory_bytes()) * 1e-6;
}

// The float32 products of such an update alone, forward and for the gradient of what went in, as LibTorch runs them: no
// update is faster with these. range: tokens.
void products(benchmark::State& state, bool large) {
  const ModelConfig c = benchmarks::shape_of(large, true);
  struct Matrix {
    int64_t in, out, count;
  };
  const int64_t T = state.range(0), D = c.hidden_size, I = c.intermediate_size, L = c.num_hidden_layers;
  std::vector<std::pair<at::Tensor, at::Tensor>> operands;
  double flops = 0;
  const auto add = [&](const Matrix& m, int64_t tokens) {
    const at::Tensor w = at::randn({m.out, m.in});
    for (int64_t i = 0; i < m.count; ++i) operands.push_back({at::randn({tokens, m.in}), w});
    flops += 4.0 * static_cast<double>(tokens * m.in * m.out * m.count);
  };
  for (const Matrix& m : {Matrix{D, D, 4 * L}, Matrix{D, I, 2 * L}, Matrix{I, D, L}}) add(m, T);
  for (int64_t v = 0; v < c.vocab_size; v += 1000) add({D, 1000, 1}, T);  // the head in pieces that stay in the cache
  for (auto _ : state)
    for (const auto& [x, w] : operands) benchmark::DoNotOptimize(at::mm(at::mm(x, w.t()), w).data_ptr());
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
void train_products_15M(benchmark::State& state) { products(state, false); }
void train_products_110M(benchmark::State& state) { products(state, true); }

void train_15M_fp32(benchmark::State& state) { train(state, false, at::kFloat); }
void train_15M_bf16(benchmark::State& state) { train(state, false, at::kBFloat16); }
void train_110M_fp32(benchmark::State& state) { train(state, true, at::kFloat); }
void train_110M_bf16(benchmark::State& state) { train(state, true, at::kBFloat16); }

#define LIGER_UPDATES                 \
  Args({4, 256, 100})                 \
      ->Args({1, 1024, 100})          \
      ->Args({4, 256, 50})            \
      ->Args({1, 1024, 50})           \
      ->Unit(benchmark::kMillisecond) \
      ->UseRealTime()
BENCHMARK(train_products_15M)->Arg(1024)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(train_products_110M)->Arg(1024)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(train_15M_fp32)->LIGER_UPDATES->Iterations(6);
BENCHMARK(train_15M_bf16)->LIGER_UPDATES->Iterations(6);
BENCHMARK(train_110M_fp32)->LIGER_UPDATES->Iterations(3);
BENCHMARK(train_110M_bf16)->LIGER_UPDATES->Iterations(3);

}  // namespace
}  // namespace liger
