#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "liger/nn/causal_lm.h"

namespace liger::tool {

/// The model a tool runs, where and how.
struct ModelArguments {
  std::string model, dtype, device = "cpu", backend = "auto";
  std::filesystem::path adapter;
};

/// Adds --model, --adapter, --dtype, --device and --backend.
void add_model_options(CLI::App& app, ModelArguments& arguments);

/// What they ask for; throws Error(kUsage) for what is not known, or not on this machine.
LoadOptions load_options(const ModelArguments& arguments);

}  // namespace liger::tool
