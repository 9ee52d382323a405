// One update of LoRA fine-tuning, rank 8 on q, k and v, in the shapes of stories15M and stories110M with random weights.

#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
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
    const at::Tensor loss =
        linear_cross_entropy(model.hidden_states(tokens), model.head_weight(), targets.flatten());
    loss.div(static_cast<double>(rows * learned)).backward();
    optimizer.grad_norm();
    optimizer.step(1e-3);
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * rows * length), benchmark::Counter::kIsRate);
  state.counters["MB"] = static_cast<double>(peak_memory_bytes()) * 1e-6;
}

void train_15M_fp32(benchmark::State& state) { train(state, false, at::kFloat); }
void train_15M_bf16(benchmark::State& state) { train(state, false, at::kBFloat16); }
void train_110M_fp32(benchmark::State& state) { train(state, true, at::kFloat); }
void train_110M_bf16(benchmark::State& state) { train(state, true, at::kBFloat16); }

#define LIGER_UPDATES \
  Args({4, 256, 100})->Args({1, 1024, 100})->Args({4, 256, 50})->Args({1, 1024, 50})->Unit(benchmark::kMillisecond)->UseRealTime()
BENCHMARK(train_15M_fp32)->LIGER_UPDATES->Iterations(6);
BENCHMARK(train_15M_bf16)->LIGER_UPDATES->Iterations(6);
BENCHMARK(train_110M_fp32)->LIGER_UPDATES->Iterations(3);
BENCHMARK(train_110M_bf16)->LIGER_UPDATES->Iterations(3);

}  // namespace
}  // namespace liger
