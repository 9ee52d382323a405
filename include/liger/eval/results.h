#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "liger/eval/evaluate.h"

namespace liger {

/// What a run was, for its results file.
struct RunDescription {
  std::string model;    ///< as the user named it
  std::string adapter;  ///< empty = none
  std::string dtype;
  std::string device = "cpu";
  std::string batch_size;
  std::optional<double> limit;
  int64_t parameters = 0, max_length = 0;
  double started = 0.0;  ///< seconds since 1970
  double seconds = 0.0;  ///< the whole run took
};

/// The document lm-evaluation-harness 0.4.13 writes (results, configs, versions, n-shot, higher_is_better, n-samples,
/// config, ...); `perplexity` has the plain keys loss, perplexity, tokens.
OrderedJson results_json(const std::vector<TaskResult>& results, const EvalOptions& options, const RunDescription& run,
                         const Tokenizer& tokenizer);

/// Tasks | Version | Filter | n-shot | Metric | Value | Stderr, as Markdown.
std::string results_table(const std::vector<TaskResult>& results);

/// Writes DIR/{model}/results_{time}.json and, where there are samples, samples_{task}_{time}.jsonl beside it.
/// Returns the folder.
std::filesystem::path write_results(const std::filesystem::path& dir, const std::vector<TaskResult>& results,
                                    const OrderedJson& document, const RunDescription& run);

}  // namespace liger
