#pragma once

#include <string>

namespace liger::detail {

/// The Hugging Face repository ("org/name") that a short name stands for, or that the name is.
/// Throws Error(kUsage) with the names that are known, the nearest first.
std::string repository_named(const std::string& name);

/// Whether text can be a part of a repository's id or a commit: nothing that could lead out of the cache folder.
bool is_plain_name(std::string_view text);

}  // namespace liger::detail
