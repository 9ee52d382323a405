#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace liger {

/// The folder of a model: an existing folder as it is; otherwise a short name ("llama3-8b", "tinyllama") or a Hugging
/// Face repository ("meta-llama/Llama-3.2-1B") looked up in the local cache: HF_HUB_CACHE, else HF_HOME/hub, else
/// XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. Nothing is downloaded: download.h does that.
/// Throws Error(kUsage) saying where it looked and what fetches the model, or which names are known; Error(kBadInput)
/// if a link of the cached model leads anywhere but into the blobs of its entry.
std::filesystem::path resolve_model(const std::string& name_or_dir);

/// The Hugging Face repository ("org/name") a folder of the local cache belongs to; "" for any other folder.
std::string repository_of_folder(const std::filesystem::path& dir);

/// The lines that begin with "license" in the front matter of a model folder's card; none without a card.
std::vector<std::string> license_lines(const std::filesystem::path& dir);

/// What to call a model: the name in its repository, or its folder's name.
std::string model_display_name(const std::filesystem::path& dir);

}  // namespace liger
