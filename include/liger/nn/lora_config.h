#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "liger/io/json.h"

namespace liger {

/// Modules by what their paths ("model.layers.0.self_attn.q_proj") are, as PEFT selects them: a list of names, each the
/// whole path or its end after a dot, or one regular expression for the whole path.
struct ModuleSelector {
  std::vector<std::string> names = {};
  std::string regex = {};  ///< in place of names; "all-linear" is every linear module but the head

  bool empty() const { return names.empty() && regex.empty(); }
  bool is_all_linear() const;
  bool operator==(const ModuleSelector&) const = default;
};

/// A PEFT LoRA configuration (adapter_config.json of PEFT 0.21), the part this library runs. The names in brackets are
/// PEFT's where they differ.
struct LoraConfig {
  int64_t r = 8;
  double alpha = 8.0;                                                  ///< [lora_alpha]
  double dropout = 0.0;                                                ///< [lora_dropout]
  ModuleSelector targets = {.names = {"q_proj", "k_proj", "v_proj"}};  ///< [target_modules]
  ModuleSelector exclude = {};                                         ///< [exclude_modules] of the targets
  std::vector<int64_t> layers = {};  ///< [layers_to_transform]: only these; empty = all
  /// Another rank or alpha for modules whose path, or its end after a dot, the regular expression matches; the first
  /// that matches counts.
  std::vector<std::pair<std::string, int64_t>> rank_pattern = {};
  std::vector<std::pair<std::string, double>> alpha_pattern = {};
  bool rslora = false;  ///< [use_rslora]: scale alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732)
  bool dora = false;    ///< [use_dora]: arXiv 2402.09353, see Linear
  /// [modules_to_save: mixer]: the numbers of a linearized layer's heads (core/head_scalars.h) are trained as well.
  bool mixer = false;
  /// [modules_to_save: input_layernorm, post_attention_layernorm]: every layer's norms are the adapter's.
  bool norms = false;
  std::vector<std::string> more_norms = {};  ///< and these, of models whose layers have more (Family::more_norms())
  /// [bias: lora_only]: so are the biases of linear modules in layers. Only where depths have their own.
  bool biases = false;
  /// The model's stored layers that run, as ranges [first, last) one after the other; empty = each once. A layer that
  /// runs several times has a pair for each.
  std::vector<std::pair<int64_t, int64_t>> layer_replication = {};
  std::string base_model_name_or_path = {};  ///< written to adapter_config.json

  /// Strict: a value PEFT would refuse, an option that is on and not run here (bias "all", other modules_to_save ...)
  /// or a key that is not known and on throws Error(kBadInput) "`source`: 'key': expected ..., got ...".
  static LoraConfig from_peft_json(const OrderedJson& config, const std::string& source);
  /// What PEFT needs to read it back: the keys of every LoRA, and those in use.
  OrderedJson to_peft_json() const;
};

/// The pair of one linear module.
struct LoraModule {
  std::string path;
  int64_t r = 0;
  double scale = 0.0;  ///< alpha / r or, with rslora, alpha / sqrt(r), of this module's r and alpha
};

/// The modules of `linears` (paths) that `config` gives a pair, in their order.
/// Throws Error(kUsage) if there is none, a target, layer or pattern matches nothing, a number is out of range, a
/// regular expression is none or not supported (io/regex.h), or the head is among them: its weight is used outside of
/// its module.
std::vector<LoraModule> lora_modules(const LoraConfig& config, const std::vector<std::string>& linears);

/// The configuration with "all-linear" written out as names, which is how PEFT stores it.
LoraConfig expand_all_linear(LoraConfig config, const std::vector<std::string>& linears);

}  // namespace liger
