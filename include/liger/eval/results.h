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

/// The document lm-evaluation-harness 0.4.13 writes (results, groups, configs, versions, n-shot, higher_is_better,
/// n-samples, config, ...); a task of tokens has the plain keys loss, perplexity, tokens.
OrderedJson results_json(const Evaluation& evaluation, const EvalOptions& options, const RunDescription& run,
                         const Tokenizer& tokenizer);

/// Tasks | Version | Filter | n-shot | Metric | Value | Stderr, as Markdown; with groups a second table of these.
std::string results_table(const Evaluation& evaluation);

/// DIR/{model}, its name without what a file's must not have: where write_results() writes.
std::filesystem::path results_folder(const std::filesystem::path& dir, const std::string& model);

/// Writes results_{time}.json into that folder and, where there are samples, samples_{task}_{time}.jsonl beside it.
void write_results(const std::filesystem::path& folder, const Evaluation& evaluation, const OrderedJson& document,
                   const RunDescription& run);

}  // namespace liger
