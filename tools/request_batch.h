#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "liger/generate/engine.h"
#include "liger/generate/generate.h"
#include "liger/io/tokenizer.h"
#include "tool.h"

namespace liger::tool {

/// liger-generate's way to answer many requests at once.
class RequestBatch {
 public:
  /// Options that are many and seldom needed together with a prompt.
  void add_to(CLI::App& app);
  bool wanted() const { return !file_.empty(); }
  /// Reads FILE, one {"prompt": TEXT, "max_tokens": N, "arrival": SECONDS, "id": anything} a line, all but the prompt
  /// optional; prints a line of JSON for each as it is finished, and says on stderr what the work was: a line of JSON
  /// with --json, else a few lines unless --quiet. Throws Error(kBadInput) for a bad line before anything is read by
  /// the model.
  void run(CausalLM& model, const Tokenizer& tokenizer, const GenerateOptions& generate,
           const CommonOptions& common) const;

 private:
  std::string file_, batching_ = "depth", exit_, backfill_ = "exact";
  int64_t batch_ = 8;
  std::string threshold_;
  uint64_t memory_ = 0;
};

}  // namespace liger::tool
