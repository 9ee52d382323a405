#pragma once

#include <string>
#include <vector>

#include "liger/core/model_config.h"

namespace liger {

/// What a linearized layer may be made of, as far as names and settings go. The functions that compute it are in
/// recurrences() (recurrence/recurrence.h), which a config.json can be read without; a test checks that both lists
/// name the same structures, kWindowOnly aside.
struct Structure {
  const char* name;          ///< config.json's "liger.recurrence" and liger-convert's --arch: "gated-deltanet"
  const char* architecture;  ///< its part of config.json's "architectures": "GatedDeltaNet"
  const char* kind;          ///< what it shares with others: "a decay per head"
  const char* summary;       ///< one line
  const char* decay;         ///< a clause about what it forgets: "its decay is sigmoid(k)"
  bool has_gate_divisor;     ///< `decay` depends on LigerConfig::gate_divisor
  bool is_published;         ///< the published Liger code opens it
};

/// All of them, for messages and tests; those of one kind are neighbours.
const std::vector<Structure>& structures();
/// nullptr if unknown.
const Structure* find_structure(const std::string& name);
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
