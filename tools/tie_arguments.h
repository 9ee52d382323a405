#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "liger/convert/convert.h"
#include "liger/nn/calibrate.h"

namespace liger::tool {

/// What liger-convert is told about tying layers, and what it says of it.
class TieArguments {
 public:
  /// Of options that are many and seldom needed: shown by --help-all.
  static constexpr const char* kDetails = "Details of tied layers";

  void add_to(CLI::App& app);
  /// nothing without --loops. Throws Error(kUsage) for options that need it.
  std::optional<TieOptions> options(const CLI::App& app) const;
  bool compares() const { return compare_; }

 private:
  int64_t loops_ = 0;
  std::string sharing_ = "cycle", init_, norms_ = "folded", rank_ = "64", lora_init_ = "svd";
  std::vector<std::string> rank_pattern_;
  bool drop_layers_ = false, compare_ = false;
};

/// How far a tied model is from the one it was made of, on a text; by what it begins as.
struct TieReport {
  TiedSizes sizes;
  int64_t parameters_before = 0;
  KeptEnergy kept;
  int64_t tokens = 0;  ///< of the text; 0 = none was read
  std::vector<std::pair<std::string, ModelGap>> gaps;
};
/// `out` is the tied model's folder; with `all` the other ways to begin are made in memory and compared too.
TieReport report_tie(const ConvertOptions& options, const std::filesystem::path& out, const KeptEnergy& kept,
                     const std::string& text, bool all);
void print(const TieReport& report);
OrderedJson to_json(const TieReport& report);

}  // namespace liger::tool
