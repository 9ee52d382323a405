#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "liger/core/model_config.h"

namespace liger {

/// What a model card tells beyond config.json.
struct CardFacts {
  std::filesystem::path source;           ///< the folder converted from
  std::string name;                       ///< of the new folder
  ModelConfig model;                      ///< as converted
  std::vector<std::string> source_files;  ///< names of the source's weight files
  std::vector<std::string> changes;       ///< of config.json
  std::vector<std::string> warnings;
  std::filesystem::path adapter = {};  ///< merged into the weights; empty = none
  size_t merged_tensors = 0;           ///< weights it changed
  bool tied = false, untied = false;   ///< its layers, by this conversion
  std::string dtype;                   ///< the weights were converted to; empty = unchanged
};

/// README.md of a converted model: front matter, what it is, settings, what it was made from, what to do next.
std::string model_card(const CardFacts& facts);

}  // namespace liger
