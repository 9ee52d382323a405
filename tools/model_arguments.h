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
  bool download = false, strict = false;
};

/// Adds --download, which all tools that take a model have.
void add_download_option(CLI::App& app, bool& download);

/// The folder of a model, fetched if it is not here and that was asked for.
std::filesystem::path model_folder(const std::string& name, bool download);
/// The same of --model; with --strict weights that are warned of otherwise are an Error(kBadInput).
std::filesystem::path model_folder(const ModelArguments& arguments);

/// Adds --model, --download, --strict, --adapter, --dtype, --device and --backend.
void add_model_options(CLI::App& app, ModelArguments& arguments);

/// What they ask for; throws Error(kUsage) for what is not known, or not on this machine.
LoadOptions load_options(const ModelArguments& arguments);

}  // namespace liger::tool
