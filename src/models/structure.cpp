#include "liger/models/structure.h"

#include <algorithm>
#include <set>

#include "io/nearest.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr const char* kPerChannel = "a decay per channel of the key";
constexpr const char* kPerHead = "a decay per head";
constexpr const char* kFixed = "a fixed decay, or none";
constexpr const char* kDelta = "the delta rule";
constexpr const char* kBaseline = "no recurrence";

// A head's state holds head_dim^2 numbers, and the kernels keep rows of it at hand.
constexpr int64_t kMaxHeadDim = 512;

const Structure& known_structure(const std::string& name) {
  const Structure* structure = find_structure(name);
  LIGER_CHECK_USAGE(structure != nullptr, "structure ", unknown_structure(name));
  return *structure;
}

}  // namespace

const std::vector<Structure>& structures() {
  static const std::vector<Structure> all = {
      {.name = "gla", .architecture = "GLA", .kind = kPerChannel,
       .summary = "gated linear attention; what the paper and its released checkpoints use",
       .decay = "its decay is sigmoid(k)^(1/gate_divisor)", .has_gate_divisor = true, .is_published = true},
      {.name = "hgrn2", .architecture = "HGRN2", .kind = kPerChannel,
       .summary = "what is forgotten makes room for the new: the key is 1 - decay",
       .decay = "its decay is sigmoid(k)", .has_gate_divisor = false, .is_published = true},
      {.name = "gsa", .architecture = "GSA", .kind = kPerChannel,
       .summary = "gated slot attention: softmax over head_dim slots of keys and values",
       .decay = "its decay is sigmoid(k)^(1/gate_divisor)", .has_gate_divisor = true, .is_published = true},
      {.name = "rwkv6", .architecture = "RWKV6", .kind = kPerChannel,
       .summary = "the state is read before the new token enters, which has a term of its own",
       .decay = "its decay is exp(-exp(k))", .has_gate_divisor = false, .is_published = false},
      {.name = "gated-retention", .architecture = "GatedRetention", .kind = kPerHead,
       .summary = "gla with one gate a head, from the mean of the key",
       .decay = "its decay is sigmoid(mean of k)^(1/gate_divisor)", .has_gate_divisor = true, .is_published = false},
      {.name = "mamba2", .architecture = "Mamba2", .kind = kPerHead,
       .summary = "the gate of Mamba-2, from the mean of the key",
       .decay = "its decay is exp(-softplus(mean of k))", .has_gate_divisor = false, .is_published = false},
      {.name = "mlstm", .architecture = "MLSTM", .kind = kPerHead,
       .summary = "matrix LSTM: a forget gate and a normalizer",
       .decay = "its decay is sigmoid(mean of k)", .has_gate_divisor = false, .is_published = false},
      {.name = "retnet", .architecture = "RetNet", .kind = kFixed,
       .summary = "retention: each head has a constant decay",
       .decay = "its decay is a constant of the head", .has_gate_divisor = false, .is_published = false},
      {.name = "lightning", .architecture = "Lightning", .kind = kFixed,
       .summary = "each head of each layer has a constant decay",
       .decay = "its decay is a constant of the head and the layer", .has_gate_divisor = false, .is_published = false},
      {.name = "linear", .architecture = "Linear", .kind = kFixed,
       .summary = "plain linear attention: nothing is forgotten",
       .decay = "nothing decays", .has_gate_divisor = false, .is_published = false},
      {.name = "deltanet", .architecture = "DeltaNet", .kind = kDelta,
       .summary = "a token replaces a share of what its key held, by the mean of the key",
       .decay = "nothing decays", .has_gate_divisor = false, .is_published = false},
      {.name = "gated-deltanet", .architecture = "GatedDeltaNet", .kind = kDelta,
       .summary = "deltanet after a decay per head",
       .decay = "its decay is sigmoid(mean of k)^(1/gate_divisor)", .has_gate_divisor = true, .is_published = false},
      {.name = "kda", .architecture = "KDA", .kind = kDelta,
       .summary = "Kimi delta attention: deltanet after a decay per channel of the key",
       .decay = "its decay is sigmoid(k)^(1/gate_divisor)", .has_gate_divisor = true, .is_published = false},
      {.name = kWindowOnly, .architecture = "SWA", .kind = kBaseline,
       .summary = "the sliding window alone, the baseline of all others",
       .decay = "nothing is remembered beyond the window", .has_gate_divisor = false, .is_published = false},
  };
  return all;
}

const Structure* find_structure(const std::string& name) {
  for (const Structure& structure : structures())
    if (name == structure.name) return &structure;
  return nullptr;
}

std::string unknown_structure(const std::string& name) {
  std::set<std::string, std::less<>> names;
  std::string list;
  for (const Structure& structure : structures()) {
    names.insert(structure.name);
    list += cat(list.empty() ? "" : ", ", structure.name);
  }
  const std::string meant = detail::nearest(name, names);
  return cat("'", name.substr(0, 80), "' is not known; ", meant.empty() ? "" : cat("did you mean '", meant, "'? "),
             meant.empty() ? "known are " : "Known are ", list);
}

std::string liger_model_type(const std::string& structure) {
  std::string type = cat("liger_", known_structure(structure).name);
  std::replace(type.begin(), type.end(), '-', '_');
  return type;
}

std::string liger_architecture(const std::string& structure) {
  return cat("Liger", known_structure(structure).architecture, "ForCausalLM");
}

const Structure* find_structure_of_model_type(const std::string& model_type) {
  for (const Structure& structure : structures())
    if (model_type == liger_model_type(structure.name)) return &structure;
  return nullptr;
}

std::string unsupported_reason(const std::string& structure, const ModelConfig& model) {
  const std::string name = known_structure(structure).name;
  if (name == kWindowOnly || model.head_dim <= kMaxHeadDim) return "";
  return cat(name, " keeps head_dim^2 numbers a head and can do so for a head_dim of at most ", kMaxHeadDim,
             "; this model has ", model.head_dim, ". What remains is ", kWindowOnly,
             ", which has a window and no recurrence, or softmax attention");
}

}  // namespace liger
