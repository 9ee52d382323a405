#include "tie_arguments.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iostream>

#include "liger/error.h"
#include "liger/io/log.h"
#include "liger/io/tokenizer.h"
#include "liger/models/family.h"
#include "liger/nn/causal_lm.h"

namespace liger::tool {
namespace {

int64_t rank_from(const std::string& option, const std::string& text) {
  constexpr int64_t kFull = int64_t{1} << 24;  // clipped to what a matrix can have
  if (text == "full") return kFull;
  int64_t rank = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rank);
  LIGER_CHECK_USAGE(error == std::errc() && end == text.data() + text.size() && rank >= 0 && rank <= kFull, option,
                    ": expected a rank such as 64, 0 for none, or full, got '", text, "'");
  return rank;
}

int64_t parameters_of(const ModelConfig& model) {
  int64_t out = 0;
  for (const ExpectedTensor& tensor : expected_tensors(model)) out += c10::multiply_integers(tensor.shape);
  return out;
}

std::string millions(int64_t n) {
  char text[32];
  std::snprintf(text, sizeof text, n < 1'000'000'000 ? "%.3f M" : "%.3f B",
                static_cast<double>(n) / (n < 1'000'000'000 ? 1e6 : 1e9));
  return text;
}

}  // namespace

void TieArguments::add_to(CLI::App& app) {
  CLI::Option* loops = app.add_option("--loops", loops_, "Tie layers into blocks that run so often (recursive model)");
  loops->option_text("N")->check(CLI::Range(2, 4096));
  const auto option = [&](const char* name, auto& value, const char* text) {
    return app.add_option(name, value, text)->group(kDetails)->needs(loops)->capture_default_str();
  };
  const auto choice = [&](const char* name, std::string& value, const char* text, std::vector<std::string> names) {
    option(name, value, text)->check(CLI::IsMember(std::move(names)))->option_text("NAME");
  };
  choice("--sharing", sharing_, "Depths that share: cycle 012012, sequence 001122, middle-*: the first and last do not",
         {"cycle", "sequence", "middle-cycle", "middle-sequence"});
  choice("--init", init_,
         "A shared layer begins as: stepwise, average, lower, upper layers, or random; by default average, with "
         "--lora-rank 0 or --lora-init zero stepwise",
         {"stepwise", "average", "lower", "upper", "random"});
  choice("--norms", norms_, "Gains of norms: folded into the matrices that read them, tied too, or each depth's own",
         {"folded", "tied", "depth"});
  option("--lora-rank", rank_, "Of each depth's adapters; 0 = none, full = the model back exactly")->option_text("R");
  choice("--lora-init", lora_init_, "Adapters: svd of what layers and shared layers differ by, or zero",
         {"svd", "zero"});
  option("--rank-pattern", rank_pattern_, "Other ranks: down_proj=128,mlp.up_proj=128")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("NAME=R,...");
  app.add_flag("--drop-layers", drop_layers_, "Leave layers out, evenly spread, where loops do not divide them")
      ->group(kDetails)
      ->needs(loops);
  app.add_flag("--compare-inits", compare_, "Also say how far from the model every --init begins")
      ->group(kDetails)
      ->needs(loops);
}

std::optional<TieOptions> TieArguments::options(const CLI::App& app) const {
  if (app.count("--loops") == 0) return {};
  TieOptions out;
  out.recursion.loops = loops_;
  out.recursion.sharing = sharing_from_name(sharing_);
  if (!init_.empty()) out.init = tie_init_from_name(init_);
  out.norms = tie_norms_from_name(norms_);
  out.rank = rank_from("--lora-rank", rank_);
  out.svd = lora_init_ == "svd";
  out.drop_layers = drop_layers_;
  LIGER_CHECK_USAGE(out.rank > 0 || (app.count("--lora-init") == 0 && rank_pattern_.empty()),
                    "--lora-init and --rank-pattern have no meaning with --lora-rank 0");
  for (const std::string& entry : rank_pattern_) {
    const size_t equals = entry.find('=');
    LIGER_CHECK_USAGE(equals != std::string::npos && equals > 0,
                      "--rank-pattern: expected NAME=RANK, as down_proj=128, "
                      "got '",
                      entry, "'");
    const int64_t rank = rank_from("--rank-pattern", entry.substr(equals + 1));
    LIGER_CHECK_USAGE(rank > 0, "--rank-pattern: expected a rank of 1 or more, got '", entry, "'");
    out.rank_pattern.emplace_back(entry.substr(0, equals), rank);
  }
  return out;
}

TieReport report_tie(const ConvertOptions& options, const std::filesystem::path& out, const KeptEnergy& kept,
                     const std::string& text, bool all) {
  constexpr size_t kMostTokens = 512;
  const ModelConfig model = ModelConfig::read(options.model);
  TieReport report{.sizes = tied_sizes(*options.tie, model),
                   .parameters_before = parameters_of(model),
                   .kept = kept,
                   .tokens = 0,
                   .gaps = {}};
  if (text.empty()) return report;
  std::vector<int64_t> ids = encode_whole(*Tokenizer::load(options.model), text);
  LIGER_CHECK_USAGE(ids.size() >= 2, "--probe: expected two tokens or more");
  ids.resize(std::min(ids.size(), kMostTokens));
  report.tokens = std::ssize(ids);
  const std::vector<Sequences> batch = {Sequences({ids})};
  LoadOptions load;
  load.softmax = options.arch == "softmax";
  if (!options.arch.empty() && !load.softmax) load.liger = options.liger;
  const auto teacher = CausalLM::load(options.model, load);
  const TieInit chosen = options.tie->chosen_init();
  report.gaps.emplace_back(to_string(chosen), compare(*CausalLM::load(out), *teacher, batch));
  for (const TieInit init :
       {TieInit::kStepwise, TieInit::kAverage, TieInit::kLower, TieInit::kUpper, TieInit::kRandom}) {
    if (!all || init == chosen) continue;
    log_info(cat("comparing with ", to_string(init)));
    TieOptions other = *options.tie;
    other.init = init;
    report.gaps.emplace_back(to_string(init), compare(*tied_model(options.model, other), *teacher, batch));
  }
  return report;
}

void print(const TieReport& report) {
  const TiedSizes& s = report.sizes;
  std::cout << "parameters: " << millions(report.parameters_before) << " -> " << millions(s.base + s.adapters) << " ("
            << millions(s.base - s.embedding) << " in layers, " << millions(s.adapters) << " in adapters of depths, "
            << millions(s.embedding) << " in embeddings)\n";
  char line[128];
  if (!report.kept.empty()) {
    std::cout << "of what layers and shared layers differ by, the adapters hold\n";
    for (const auto& [linear, kept] : report.kept) {
      std::snprintf(line, sizeof line, "  %-24s %7.2f %%\n", linear.c_str(), 100 * kept);
      std::cout << line;
    }
  }
  if (report.gaps.empty()) return;
  std::snprintf(line, sizeof line, "  %-10s %10s %14s %18s   (text of %lld tokens)\n", "init", "loss", "KL from model",
                "largest logit gap", static_cast<long long>(report.tokens));
  std::cout << line;
  for (const auto& [name, gap] : report.gaps) {
    std::snprintf(line, sizeof line, "  %-10s %10.4f %14.4g %18.4g\n", name.c_str(), gap.loss, gap.divergence,
                  gap.largest);
    std::cout << line;
  }
}

OrderedJson to_json(const TieReport& report) {
  OrderedJson gaps = OrderedJson::object();
  for (const auto& [name, gap] : report.gaps)
    gaps[name] = {{"loss", gap.loss}, {"divergence", gap.divergence}, {"largest_logit_change", gap.largest}};
  return {{"parameters_before", report.parameters_before},
          {"parameters_base", report.sizes.base},
          {"parameters_embedding", report.sizes.embedding},
          {"parameters_adapters", report.sizes.adapters},
          {"energy_kept", report.kept},
          {"probe_tokens", report.tokens},
          {"inits", std::move(gaps)}};
}

}  // namespace liger::tool
