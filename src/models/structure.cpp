#include "liger/models/structure.h"

#include <algorithm>
#include <set>

#include "io/nearest.h"
#include "liger/error.h"

namespace liger {
namespace {

// A head's state holds head_dim^2 numbers, and the kernels keep rows of it at hand.
constexpr int64_t kMaxHeadDim = 512;

const Structure& known_structure(const std::string& name) {
  const Structure* structure = find_structure(name);
  LIGER_CHECK_USAGE(structure != nullptr, "structure ", unknown_structure(name));
  return *structure;
}

}  // namespace

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
