#pragma once

#include <string>

#include "liger/core/model_config.h"
#include "liger/core/structure.h"

namespace liger {

/// "'mamba' is not known; did you mean 'mamba2'? Known are gla, ...": for a message about a name.
std::string unknown_structure(const std::string& name);

/// config.json's "model_type" ("liger_gated_deltanet") and "architectures" ("LigerGatedDeltaNetForCausalLM") of a
/// model linearized with the structure named; the published code's for those it has. Throws Error(kUsage) for an
/// unknown name.
std::string liger_model_type(const std::string& structure);
std::string liger_architecture(const std::string& structure);
/// The structure with this model_type; nullptr if none has it.
const Structure* find_structure_of_model_type(const std::string& model_type);

/// Why a model of these shapes cannot be linearized with the structure named, and what can be done instead; "" if it
/// can. Throws Error(kUsage) for an unknown name.
std::string unsupported_reason(const std::string& structure, const ModelConfig& model);

}  // namespace liger
