#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>

#include "io/regex.h"
#include "liger/error.h"
#include "liger/nn/lora.h"
#include "liger/nn/lora_config.h"

namespace liger {
namespace {

bool ends_with_name(const std::string& path, const std::string& name) {
  return path == name || path.ends_with("." + name);
}

std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// Compiles an expression of a configuration; an error says which key it stands under.
detail::Regex compile(const char* key, const std::string& regex) {
  try {
    return detail::Regex(regex);
  } catch (const Error& e) {
    fail(ErrorCode::kUsage, "lora: ", key, ": ", e.what());
  }
}

using Predicate = std::function<bool(const std::string& path)>;

Predicate selects(const char* key, const ModuleSelector& selector) {
  if (selector.is_all_linear()) return [](const std::string& path) { return !is_head(path); };
  if (selector.regex.empty()) {
    return [&selector](const std::string& path) {
      return std::any_of(selector.names.begin(), selector.names.end(),
                         [&](const std::string& name) { return ends_with_name(path, name); });
    };
  }
  const auto regex = std::make_shared<const detail::Regex>(compile(key, selector.regex));
  return [regex](const std::string& path) { return regex->matches(path); };
}

/// The N of "model.layers.N.self_attn.q_proj": the first number between two dots that a name stands before.
std::optional<int64_t> layer_of(const std::string& path) {
  static const std::string kDigits = "0123456789";
  const size_t first = path.find('.');
  for (size_t dot = first == std::string::npos ? first : path.find('.', first + 1); dot != std::string::npos;) {
    const size_t end = path.find_first_not_of(kDigits, dot + 1);
    const bool is_number = end != std::string::npos && end > dot + 1 && path[end] == '.';
    if (is_number) return std::stoll(path.substr(dot + 1, end - dot - 1));
    dot = path.find('.', dot + 1);
  }
  return {};
}

/// PEFT's rule: `layers` restricts what a name's end has selected, not a whole path.
bool in_layers(const LoraConfig& config, const std::string& path) {
  const std::vector<std::string>& names = config.targets.names;
  if (config.layers.empty() || std::find(names.begin(), names.end(), path) != names.end()) return true;
  const std::optional<int64_t> layer = layer_of(path);
  return layer && std::find(config.layers.begin(), config.layers.end(), *layer) != config.layers.end();
}

/// rank_pattern or alpha_pattern, ready to be asked.
template <typename Number>
class Pattern {
 public:
  Pattern(const char* key, const std::vector<std::pair<std::string, Number>>& entries,
          const std::vector<std::string>& linears) {
    for (const auto& [regex, number] : entries) {
      compile(key, regex);  // by itself first: a parenthesis of ours must not close one of its own
      entries_.emplace_back(compile(key, cat("(.*\\.)?(", regex, ")$")), number);
      LIGER_CHECK_USAGE(std::any_of(linears.begin(), linears.end(),
                                    [&](const std::string& path) { return entries_.back().first.matches(path); }),
                        "lora: ", key, ": '", regex, "' matches no linear module of the model");
    }
  }
  Number value(const std::string& path, Number otherwise) const {
    for (const auto& [regex, number] : entries_)
      if (regex.matches(path)) return number;
    return otherwise;
  }

 private:
  std::vector<std::pair<detail::Regex, Number>> entries_;
};

void check_numbers(const LoraConfig& config) {
  constexpr int64_t kLargestRank = 65536;
  const auto check_rank = [&](const std::string& key, int64_t r) {
    LIGER_CHECK_USAGE(r >= 1 && r <= kLargestRank, "lora: ", key, ": expected 1 to ", kLargestRank, ", got ", r);
  };
  const auto check_alpha = [&](const std::string& key, double alpha) {
    LIGER_CHECK_USAGE(std::isfinite(alpha), "lora: ", key, ": expected a number, got ", alpha);
  };
  check_rank("r", config.r);
  check_alpha("alpha", config.alpha);
  for (const auto& [regex, r] : config.rank_pattern) check_rank("rank_pattern." + regex, r);
  for (const auto& [regex, alpha] : config.alpha_pattern) check_alpha("alpha_pattern." + regex, alpha);
  LIGER_CHECK_USAGE(config.dropout >= 0 && config.dropout < 1, "lora: dropout: expected a share from 0 to below 1",
                    ", got ", config.dropout);
}

void check_targets(const LoraConfig& config, const std::vector<std::string>& linears) {
  const auto any = [&](const Predicate& holds) { return std::any_of(linears.begin(), linears.end(), holds); };
  for (const std::string& name : config.targets.names) {
    LIGER_CHECK_USAGE(any([&](const std::string& path) { return ends_with_name(path, name); }), "lora: target '", name,
                      "' matches no linear module of the model; expected for example '", last_name(linears.front()),
                      "'");
  }
  for (const int64_t layer : config.layers) {
    LIGER_CHECK_USAGE(any([&](const std::string& path) { return layer_of(path) == layer; }), "lora: layer ", layer,
                      " is not in the model");
  }
  LIGER_CHECK_USAGE(config.layers.empty() || config.targets.regex.empty(),
                    "lora: layers do not go together with a regular expression for the targets; write them into it");
}

}  // namespace

bool ModuleSelector::is_all_linear() const {
  std::string lower = regex;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower == "all-linear";
}

std::vector<LoraModule> lora_modules(const LoraConfig& config, const std::vector<std::string>& linears) {
  check_numbers(config);
  check_targets(config, linears);
  const Predicate is_target = selects("targets", config.targets), is_excluded = selects("exclude", config.exclude);
  const Pattern<int64_t> ranks("rank_pattern", config.rank_pattern, linears);
  const Pattern<double> alphas("alpha_pattern", config.alpha_pattern, linears);
  std::vector<LoraModule> modules;
  for (const std::string& path : linears) {
    if (!is_target(path) || is_excluded(path) || !in_layers(config, path)) continue;
    LIGER_CHECK_USAGE(!is_head(path), "lora: the targets include ", path,
                      ", which takes no adapter here; leave it out, or exclude it");
    const int64_t r = ranks.value(path, config.r);
    const auto rank = static_cast<double>(r);
    const double scale = alphas.value(path, config.alpha) / (config.rslora ? std::sqrt(rank) : rank);
    LIGER_CHECK_USAGE(std::abs(scale) <= std::numeric_limits<float>::max(), "lora: ", path, ": the scale ", scale,
                      " from alpha is too large for float32");
    modules.push_back({path, r, scale});
  }
  const std::string& regex = config.targets.regex;
  LIGER_CHECK_USAGE(!modules.empty(), "lora: the targets ",
                    regex.empty() ? "are all excluded" : cat("'", regex, "' match nothing"),
                    "; expected the path of a linear module, for example '", linears.front(), "'");
  return modules;
}

LoraConfig expand_all_linear(LoraConfig config, const std::vector<std::string>& linears) {
  if (!config.targets.is_all_linear()) return config;
  config.targets = {};
  for (const std::string& path : linears) {
    std::vector<std::string>& names = config.targets.names;
    const std::string name = last_name(path);
    if (!is_head(path) && std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return config;
}

}  // namespace liger
