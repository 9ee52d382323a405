// What a micro-batch of training data costs to put together, beside the update that reads it (train_bench.cpp).

#include <benchmark/benchmark.h>

#include <filesystem>
#include <vector>

#include "liger/io/files.h"
#include "liger/train/dataset.h"
#include "train/corpus_writer.h"

namespace liger {
namespace {

// 1024 chunks of 1024 tokens, of rows of 250. range: chunks at a time.
void batch_of_data(benchmark::State& state) {
  constexpr int64_t kRowTokens = 250, kTokens = int64_t{1} << 20;
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "liger-data-bench";
  std::filesystem::create_directories(folder);
  std::vector<uint32_t> tokens(kTokens / kRowTokens * kRowTokens);
  std::vector<CorpusRow> rows;
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(i * 7919 % 32000) | kLearnedBit;
  for (int64_t end = kRowTokens; end <= std::ssize(tokens); end += kRowTokens)
    rows.push_back({end, std::ssize(rows) + 1});
  const auto write = [&](const char* name, const auto& values) {
    AtomicFile file(folder / name);
    file.write(values.data(), values.size() * sizeof(values[0]));
    file.commit();
  };
  write(kTokensFile, tokens);
  write(kRowsFile, rows);
  DataOptions options;
  options.over_length = OverLength::kSplit;
  const Dataset data(std::make_shared<const Corpus>(folder, "rows.jsonl"), 0, std::ssize(rows), options);
  const std::vector<int64_t> order = epoch_order(data.size(), 0, 0);
  std::filesystem::remove_all(folder);
  const int64_t chunks = state.range(0);
  int64_t next = 0;
  for (auto _ : state) {
    if (next + chunks > data.size()) next = 0;
    benchmark::DoNotOptimize(data.batch(std::span(order).subspan(next, chunks), at::kCPU).targets.data_ptr());
    next += chunks;
  }
}
BENCHMARK(batch_of_data)->Arg(1)->Arg(8)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace liger
